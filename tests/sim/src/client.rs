//! Those who publish: a client that retries with the same ids until it is answered, sometimes asks twice, and outlives the
//! producer's crashes; and a foreign program that appends records that are no events, and repeats ids.

use std::sync::Arc;
use std::time::Duration;

use primal_core::header;
use primal_core::log::EventLog;
use primal_core::record::NewRecord;
use primal_core::{Epochs, Projection};
use primal_log_sim::{SimLog, World, mix};
use primal_producer::{Draft, Options, Producer, PublishError, Published, Receipt};

use crate::bugs::Bug;
use crate::judge::Judge;
use crate::setup::{MAX_PAYLOAD, Setup};

/// Publishes all events of a run.
pub struct Client {
    /// The run.
    pub setup: Setup,
    /// Its world.
    pub world: Arc<World>,
    /// Who is told of receipts.
    pub judge: Arc<Judge>,
    /// What is wrong on purpose.
    pub bug: Option<Bug>,
}

#[derive(Clone)]
struct Wanted {
    id: String,
    key: String,
    op: &'static str,
    data: Option<String>,
}

impl Client {
    fn draw(&self, what: u64, number: u64) -> u64 {
        mix(mix(self.setup.seed, what), number)
    }

    fn wanted(&self, number: u64) -> Wanted {
        let drawn = self.draw(0xe7e, number);
        let appends = self.setup.projection == Projection::Events;
        let op = match drawn % 20 {
            0..=3 => "delete",
            4..=9 if appends => "append",
            4 => "append",
            _ => "put",
        };
        let filler = match mix(drawn, 1) % 16 {
            0 => "poison".to_owned(),
            1 if drawn.is_multiple_of(3) => "x".repeat(MAX_PAYLOAD),
            _ => "good".to_owned(),
        };
        let data = (op != "delete").then(|| format!("{{\"n\":{number},\"is\":\"{filler}\"}}"));
        let key = format!("k{}", mix(drawn, 2) % self.setup.keys);
        Wanted { id: format!("e{number}"), key, op, data }
    }

    /// Publishes; returns once every event was acknowledged.
    pub async fn run(self) {
        let mut number = 0;
        let mut before: Vec<Wanted> = Vec::new();
        'lives: loop {
            let process = self.world.process("producer");
            let log = Bug::producer_log(self.bug, Arc::new(SimLog::new(&process)));
            let published = Published {
                collection: Setup::collection(),
                epochs: Ok(Arc::new(Epochs::first(self.setup.partitions as usize))),
                schema: None,
            };
            let producer = Producer::new(log, vec![published], Options::default(), process.env());
            while number < self.setup.events {
                let drawn = self.draw(0xc11, number);
                tokio::time::sleep(Duration::from_millis((drawn % 4) * (mix(drawn, 9) % 140))).await;
                let until = (number + 1 + mix(drawn, 1) % 4).min(self.setup.events);
                let batch: Vec<Wanted> = (number..until).map(|number| self.wanted(number)).collect();
                // Somebody asks again for what was answered, or twice at once.
                let again = if mix(drawn, 2).is_multiple_of(6) { before.clone() } else { Vec::new() };
                let twice = if mix(drawn, 3).is_multiple_of(8) { batch.clone() } else { Vec::new() };
                let all = async {
                    tokio::join!(
                        self.until_answered(&producer, &batch),
                        self.until_answered(&producer, &twice),
                        self.until_answered(&producer, &again)
                    )
                };
                tokio::select! {
                    biased;
                    () = process.died() => {
                        tokio::time::sleep(Duration::from_millis(5 + drawn % 900)).await;
                        continue 'lives;
                    }
                    _ = all => {}
                }
                before = batch;
                number = until;
            }
            return;
        }
    }

    async fn until_answered(&self, producer: &Producer, batch: &[Wanted]) {
        loop {
            match producer.publish(batch.iter().map(draft).collect()).await {
                Ok(receipts) => return self.check(batch, &receipts),
                Err(PublishError::Log(error)) if error.is_passing() => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return self.judge.broken("publish", format!("refused for good: {error}")),
            }
        }
    }

    fn check(&self, batch: &[Wanted], receipts: &[Receipt]) {
        if receipts.len() != batch.len() {
            self.judge.broken("receipt", format!("{} receipts for {} events", receipts.len(), batch.len()));
        }
        for receipt in receipts {
            self.judge.acknowledged(&receipt.id, receipt.partition, receipt.offset);
        }
    }
}

fn draft(wanted: &Wanted) -> Draft<'_> {
    Draft {
        collection: "things".into(),
        key: wanted.key.as_str().into(),
        op: Some(wanted.op.into()),
        id: Some(wanted.id.as_str().into()),
        data: wanted.data.as_deref().map(Into::into),
        ..Draft::default()
    }
}

/// Appends what no producer of ours would: records that are no events, and ids that were used before.
pub async fn foreign(setup: Setup, world: Arc<World>) {
    let process = world.process("foreign");
    let log = SimLog::new(&process);
    for number in 0..mix(setup.seed, 0xf0) % 5 {
        let drawn = mix(mix(setup.seed, 0xf1), number);
        tokio::time::sleep(Duration::from_millis(drawn % 3_000)).await;
        let mut headers = Vec::new();
        let repeated = setup.projection.keeps_every_event() && drawn.is_multiple_of(2);
        if repeated {
            header::push(&mut headers, header::SPEC_VERSION, Some(b"1.0"));
            header::push(&mut headers, header::ID, Some(b"f0"));
        }
        let key = if drawn.is_multiple_of(3) && !repeated { None } else { Some(b"k0".to_vec()) };
        let record = NewRecord {
            topic: Setup::collection().topic(),
            partition: None,
            key,
            value: Some(format!("{{\"foreign\":{number}}}").into_bytes()),
            headers,
        };
        // Whether it was taken does not matter to anybody.
        tokio::select! {
            biased;
            () = process.died() => return,
            _ = log.append(vec![record]) => {}
        }
    }
}
