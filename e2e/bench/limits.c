/* What the machine itself gives, to judge a broker's figures by:
 *
 *   limits tcp BYTES CHUNK             one loopback TCP connection, CHUNK bytes a send and receive
 *   limits disk FILE BYTES CHUNK SYNC  sequential writes; SYNC: each (fdatasync after every
 *                                      chunk) or end (one fdatasync behind the last)
 *   limits read FILE BYTES CHUNK       sequential reads of a file that was just written and synced: from the
 *                                      page cache, as a log after kill -9
 *   limits paced FILE CHUNKS CHUNK RATE  RATE chunks are due in each second, evenly; all that are due
 *                                      are written and made durable by one fdatasync (group commit)
 *
 * Prints one JSON object: {"bytes":..,"seconds":..,"mib_per_second":..}, disk with "cpu_seconds":.., tcp with
 * "send_cpu_seconds":.. and "receive_cpu_seconds":..; paced: {"p50_ms":..,"p99_ms":..,"p99.9_ms":..}, from when a
 * chunk was due to when it was durable. FILE is removed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    fprintf(stderr, "limits: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double cpu_of(const struct rusage *used) {
    return (double)(used->ru_utime.tv_sec + used->ru_stime.tv_sec) +
           (double)(used->ru_utime.tv_usec + used->ru_stime.tv_usec) / 1e6;
}

/* CPU seconds of this process, its children's not among them. */
static double cpu(void) {
    struct rusage used;
    if (getrusage(RUSAGE_SELF, &used)) die("getrusage");
    return cpu_of(&used);
}

static uint64_t number(const char *text) {
    char *end;
    errno = 0;
    uint64_t n = strtoull(text, &end, 10);
    if (errno || *end || n == 0) {
        fprintf(stderr, "limits: not a positive number: %s\n", text);
        exit(2);
    }
    return n;
}

/* Not all zero: a file system or a device must not get the chance to store a hole. */
static char *filled(size_t chunk) {
    char *buffer = malloc(chunk);
    if (!buffer) die("malloc");
    uint64_t x = 88172645463325252ULL;
    for (size_t i = 0; i < chunk; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        buffer[i] = (char)x;
    }
    return buffer;
}

/* `more`: further members of the object, each with a comma before it. */
static void report(uint64_t bytes, double seconds, const char *more) {
    printf("{\"bytes\":%llu,\"seconds\":%.6f,\"mib_per_second\":%.1f%s}\n",
           (unsigned long long)bytes, seconds, (double)bytes / seconds / 1048576.0, more);
}

static void send_all(const struct sockaddr_in *to, uint64_t bytes, char *buffer, size_t chunk) {
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (s < 0 || connect(s, (const struct sockaddr *)to, sizeof *to)) die("connect");
    while (bytes > 0) {
        ssize_t n = send(s, buffer, bytes < chunk ? (size_t)bytes : chunk, 0);
        if (n < 0) die("send");
        bytes -= (uint64_t)n;
    }
    close(s);
    exit(0);
}

static void tcp(uint64_t bytes, size_t chunk) {
    char *buffer = filled(chunk);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int l = socket(AF_INET, SOCK_STREAM, 0);
    if (l < 0 || bind(l, (struct sockaddr *)&at, sizeof at) || listen(l, 1) ||
        getsockname(l, (struct sockaddr *)&at, &size))
        die("listen");
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) send_all(&at, bytes, buffer, chunk);
    int c = accept(l, NULL, NULL);
    if (c < 0) die("accept");
    double start = now(), used = cpu();
    uint64_t got = 0;
    ssize_t n;
    while ((n = recv(c, buffer, chunk, 0)) > 0) got += (uint64_t)n;
    double seconds = now() - start;
    used = cpu() - used;
    int status;
    struct rusage sender;
    if (n < 0 || wait4(child, &status, 0, &sender) < 0 || status != 0 || got != bytes) die("receive");
    char more[128];
    snprintf(more, sizeof more, ",\"send_cpu_seconds\":%.6f,\"receive_cpu_seconds\":%.6f", cpu_of(&sender), used);
    report(got, seconds, more);
}

static void disk(const char *file, uint64_t bytes, size_t chunk, int each) {
    char *buffer = filled(chunk);
    int f = open(file, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (f < 0) die(file);
    double start = now(), used = cpu();
    for (uint64_t left = bytes; left > 0;) {
        ssize_t n = write(f, buffer, left < chunk ? (size_t)left : chunk);
        if (n <= 0) die("write");
        left -= (uint64_t)n;
        if (each && fdatasync(f)) die("fdatasync");
    }
    if (!each && fdatasync(f)) die("fdatasync");
    double seconds = now() - start;
    used = cpu() - used;
    close(f);
    unlink(file);
    char more[64];
    snprintf(more, sizeof more, ",\"cpu_seconds\":%.6f", used);
    report(bytes, seconds, more);
}

static void read_back(const char *file, uint64_t bytes, size_t chunk) {
    char *buffer = filled(chunk);
    int f = open(file, O_CREAT | O_TRUNC | O_RDWR, 0600);
    if (f < 0) die(file);
    for (uint64_t left = bytes; left > 0;) {
        ssize_t n = write(f, buffer, left < chunk ? (size_t)left : chunk);
        if (n <= 0) die("write");
        left -= (uint64_t)n;
    }
    if (fdatasync(f) || lseek(f, 0, SEEK_SET)) die(file);
    double start = now();
    uint64_t got = 0;
    ssize_t n;
    while ((n = read(f, buffer, chunk)) > 0) got += (uint64_t)n;
    double seconds = now() - start;
    if (n < 0 || got != bytes) die("read");
    close(f);
    unlink(file);
    report(got, seconds, "");
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What a stalled sync held up is written together and synced once: no broker that makes each record durable can be
 * faster than this at the same rate. */
static void paced(const char *file, uint64_t chunks, size_t chunk, double rate) {
    char *buffer = filled(chunk);
    double *waited = malloc(chunks * sizeof *waited);
    if (!waited) die("malloc");
    int f = open(file, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (f < 0) die(file);
    double start = now() + 0.1;
    for (uint64_t done = 0; done < chunks;) {
        double wait = start + (double)done / rate - now();
        if (wait > 0) {
            struct timespec t = {(time_t)wait, (long)((wait - (double)(time_t)wait) * 1e9)};
            nanosleep(&t, NULL);
        }
        uint64_t due = done;
        for (double at = now(); due < chunks && start + (double)due / rate <= at; due++)
            if (write(f, buffer, chunk) != (ssize_t)chunk) die("write");
        if (due == done) continue;
        if (fdatasync(f)) die("fdatasync");
        for (double at = now(); done < due; done++) waited[done] = at - (start + (double)done / rate);
    }
    close(f);
    unlink(file);
    qsort(waited, chunks, sizeof *waited, compare);
    printf("{\"p50_ms\":%.3f,\"p99_ms\":%.3f,\"p99.9_ms\":%.3f}\n", waited[chunks / 2] * 1e3,
           waited[chunks - 1 - chunks / 100] * 1e3, waited[chunks - 1 - chunks / 1000] * 1e3);
}

int main(int argc, char **argv) {
    if (argc == 4 && strcmp(argv[1], "tcp") == 0) {
        tcp(number(argv[2]), (size_t)number(argv[3]));
    } else if (argc == 6 && strcmp(argv[1], "disk") == 0 &&
               (strcmp(argv[5], "each") == 0 || strcmp(argv[5], "end") == 0)) {
        disk(argv[2], number(argv[3]), (size_t)number(argv[4]), strcmp(argv[5], "each") == 0);
    } else if (argc == 5 && strcmp(argv[1], "read") == 0) {
        read_back(argv[2], number(argv[3]), (size_t)number(argv[4]));
    } else if (argc == 6 && strcmp(argv[1], "paced") == 0) {
        paced(argv[2], number(argv[3]), (size_t)number(argv[4]), (double)number(argv[5]));
    } else {
        fprintf(stderr, "usage: limits tcp BYTES CHUNK | limits disk FILE BYTES CHUNK each|end | "
                        "limits read FILE BYTES CHUNK | limits paced FILE CHUNKS CHUNK RATE\n");
        return 2;
    }
    return 0;
}
