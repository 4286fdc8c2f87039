import java.io.PrintWriter;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Random;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Fills a topic of one partition on a real Kafka broker with all that a partition may hold: every
 * compression, plain and idempotent producers, a committed and an aborted transaction, keys,
 * headers, tombstones, several segments.
 *
 * <p>Usage: {@code KafkaFixture BOOTSTRAP TOPIC RECORDS_PER_CODEC SEGMENT_BYTES OUT.jsonl}. Writes
 * a JSON line for each data record with its offset, key and value (Base64, absent: null) and the
 * phase that wrote it.
 */
public final class KafkaFixture {
  private final String bootstrap;
  private final String topic;
  private final PrintWriter out;

  private KafkaFixture(String bootstrap, String topic, PrintWriter out) {
    this.bootstrap = bootstrap;
    this.topic = topic;
    this.out = out;
  }

  public static void main(String[] args) throws Exception {
    String bootstrap = args[0];
    String topic = args[1];
    int perCodec = Integer.parseInt(args[2]);
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
      NewTopic created =
          new NewTopic(topic, Optional.of(1), Optional.of((short) 1))
              .configs(Map.of("segment.bytes", args[3]));
      admin.createTopics(List.of(created)).all().get();
    }
    try (PrintWriter out =
        new PrintWriter(Files.newBufferedWriter(Path.of(args[4]), StandardCharsets.UTF_8))) {
      KafkaFixture fixture = new KafkaFixture(bootstrap, topic, out);
      for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
        fixture.plain(codec, perCodec);
      }
      fixture.transactions();
      fixture.plain("none", 10);
    }
  }

  private KafkaProducer<byte[], byte[]> producer(String codec, String transactionalId) {
    Properties p = new Properties();
    p.put(ProducerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
    p.put(ProducerConfig.KEY_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class.getName());
    p.put(ProducerConfig.VALUE_SERIALIZER_CLASS_CONFIG, ByteArraySerializer.class.getName());
    p.put(ProducerConfig.COMPRESSION_TYPE_CONFIG, codec);
    p.put(ProducerConfig.LINGER_MS_CONFIG, "5");
    p.put(ProducerConfig.ENABLE_IDEMPOTENCE_CONFIG, codec.equals("gzip") ? "false" : "true");
    if (transactionalId != null) {
      p.put(ProducerConfig.TRANSACTIONAL_ID_CONFIG, transactionalId);
    }
    return new KafkaProducer<>(p);
  }

  private void plain(String codec, int records) throws Exception {
    try (KafkaProducer<byte[], byte[]> producer = producer(codec, null)) {
      send(producer, codec, records);
    }
  }

  private void transactions() throws Exception {
    try (KafkaProducer<byte[], byte[]> producer = producer("lz4", "fixture")) {
      producer.initTransactions();
      producer.beginTransaction();
      send(producer, "committed", 20);
      producer.commitTransaction();
      producer.beginTransaction();
      send(producer, "aborted", 20);
      producer.abortTransaction();
    }
  }

  private void send(KafkaProducer<byte[], byte[]> producer, String phase, int records)
      throws Exception {
    List<ProducerRecord<byte[], byte[]>> sent = new ArrayList<>();
    List<Future<RecordMetadata>> answers = new ArrayList<>();
    for (int i = 0; i < records; i++) {
      byte[] key = i % 3 == 0 ? null : (phase + "-key-" + i).getBytes(StandardCharsets.UTF_8);
      byte[] value = i % 7 == 6 ? null : value(phase, i);
      ProducerRecord<byte[], byte[]> record = new ProducerRecord<>(topic, 0, key, value);
      if (i % 5 == 0) {
        record.headers().add("phase", phase.getBytes(StandardCharsets.UTF_8)).add("none", null);
      }
      sent.add(record);
      answers.add(producer.send(record));
    }
    producer.flush();
    for (int i = 0; i < records; i++) {
      out.printf(
          "{\"offset\":%d,\"phase\":\"%s\",\"key\":%s,\"value\":%s}%n",
          answers.get(i).get().offset(),
          phase,
          base64(sent.get(i).key()),
          base64(sent.get(i).value()));
    }
  }

  /** Some text that compresses, some bytes that do not and are no UTF-8. */
  private static byte[] value(String phase, int i) {
    byte[] text = (phase + " record " + i + " ").repeat(1 + i % 20).getBytes(StandardCharsets.UTF_8);
    byte[] noise = new byte[i * 37 % 4000];
    new Random(i).nextBytes(noise);
    return ByteBuffer.allocate(text.length + noise.length).put(text).put(noise).array();
  }

  private static String base64(byte[] bytes) {
    return bytes == null ? "null" : '"' + Base64.getEncoder().encodeToString(bytes) + '"';
  }
}
