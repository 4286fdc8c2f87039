import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicReference;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Latency from send to receipt through a Kafka broker at a fixed rate, in microseconds (Kafka's
 * own EndToEndLatency prints whole milliseconds and sends one record at a time).
 *
 * <p>Usage: {@code KafkaEndToEnd BOOTSTRAP TOPIC RATE RECORDS RECORD_SIZE WARMUP_RECORDS ACKS}.
 * Record i is due at start + i / rate, and its latency counts from then, not from the moment the
 * sender came to it: a stall is charged to every record that waited. The first WARMUP_RECORDS are
 * sent at the same rate and not counted. Prints one JSON object.
 */
public final class KafkaEndToEnd {
  public static void main(String[] args) throws Exception {
    String bootstrap = args[0];
    TopicPartition partition = new TopicPartition(args[1], 0);
    double rate = Double.parseDouble(args[2]);
    int warmup = Integer.parseInt(args[5]);
    int total = Integer.parseInt(args[3]) + warmup;
    int size = Integer.parseInt(args[4]);
    String acks = args[6];
    long[] latencies = new long[total];
    AtomicReference<Throwable> failure = new AtomicReference<>();

    try (KafkaConsumer<byte[], byte[]> consumer = consumer(bootstrap)) {
      consumer.assign(List.of(partition));
      consumer.seekToEnd(List.of(partition));
      consumer.position(partition);
      long start = System.nanoTime() + 200_000_000L;
      Thread sender = new Thread(() -> send(bootstrap, partition, acks, rate, total, size, start, failure));
      sender.start();
      int received = 0;
      long deadline = start + (long) (total / rate * 1e9) + 60_000_000_000L;
      while (received < total && failure.get() == null) {
        for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(500))) {
          long now = System.nanoTime();
          latencies[received++] = now - ByteBuffer.wrap(record.value()).getLong();
        }
        if (System.nanoTime() > deadline) {
          failure.compareAndSet(null, new IllegalStateException("received " + received + " of " + total));
        }
      }
      double seconds = (System.nanoTime() - start) / 1e9;
      if (failure.get() != null) {
        failure.get().printStackTrace();
        System.exit(1);
      }
      sender.join();
      print(Arrays.copyOfRange(latencies, warmup, total), total, (long) total * size, seconds);
    }
  }

  private static void send(
      String bootstrap,
      TopicPartition partition,
      String acks,
      double rate,
      int total,
      int size,
      long start,
      AtomicReference<Throwable> failure) {
    Properties p = new Properties();
    p.put("bootstrap.servers", bootstrap);
    p.put("acks", acks);
    p.put("linger.ms", "0");
    try (KafkaProducer<byte[], byte[]> producer =
        new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer())) {
      producer.partitionsFor(partition.topic());
      for (int i = 0; i < total && failure.get() == null; i++) {
        long due = start + (long) (i / rate * 1e9);
        for (long wait; (wait = due - System.nanoTime()) > 0; ) {
          LockSupport.parkNanos(wait);
        }
        byte[] value = new byte[size];
        ByteBuffer.wrap(value).putLong(due);
        producer.send(
            new ProducerRecord<>(partition.topic(), partition.partition(), null, value),
            (metadata, error) -> {
              if (error != null) {
                failure.compareAndSet(null, error);
              }
            });
      }
    } catch (Throwable error) {
      failure.compareAndSet(null, error);
    }
  }

  private static KafkaConsumer<byte[], byte[]> consumer(String bootstrap) {
    Properties p = new Properties();
    p.put("bootstrap.servers", bootstrap);
    p.put("enable.auto.commit", "false");
    return new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
  }

  private static void print(long[] latencies, int records, long bytes, double seconds) {
    Arrays.sort(latencies);
    System.out.printf(
        "{\"records\":%d,\"bytes\":%d,\"seconds\":%.3f,\"records_per_second\":%.1f,"
            + "\"latency_ms\":{\"p50\":%.3f,\"p99\":%.3f,\"p99.9\":%.3f,\"max\":%.3f}}%n",
        records,
        bytes,
        seconds,
        records / seconds,
        percentile(latencies, 0.5),
        percentile(latencies, 0.99),
        percentile(latencies, 0.999),
        latencies[latencies.length - 1] / 1e6);
  }

  private static double percentile(long[] sorted, double p) {
    return sorted[Math.min(sorted.length - 1, (int) Math.ceil(p * sorted.length) - 1)] / 1e6;
  }
}
