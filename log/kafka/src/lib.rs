//! The log on Apache Kafka: the only crate that names rdkafka.
