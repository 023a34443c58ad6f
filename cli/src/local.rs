//! `primalcore quickstart` and `primalcore dev`: a hub on this machine, without a config file.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use primal_core::{Env, lives};
use primal_hub::{Config, Hub, Running, rows};
use primal_producer::lines::{self, How};
use primal_replay::Progress;
use tokio_util::sync::CancellationToken;

use crate::output::{self, Bar, grouped, remark};
use crate::{Failure, Outcome, audit, example, interrupted, run};

/// How long the sink may take to apply the example events.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Args)]
pub(crate) struct Quickstart {
    /// Where the log and the store are kept
    #[arg(long, value_name = "DIR", default_value = "primalcore-data")]
    data: PathBuf,
    /// End when everything is verified
    #[arg(long)]
    exit: bool,
}

#[derive(Args)]
pub(crate) struct Dev {
    /// Where the log and the store are kept
    #[arg(long, value_name = "DIR", default_value = "primalcore-data")]
    data: PathBuf,
    /// Where the gateway listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Collections, besides those that the log has already
    #[arg(long, value_name = "A,B", value_delimiter = ',', default_value = "flights,weather,airports,planes,airlines")]
    collections: Vec<String>,
}

/// The config of a local hub, as text: what a person would write, and what `quickstart` shows.
fn config(data: &std::path::Path, listen: Option<SocketAddr>, collections: &BTreeSet<String>) -> String {
    let quoted = |name: &str| serde_json::Value::from(data.join(name).display().to_string()).to_string();
    let mut text = format!("log: {{ embedded: {{ path: {} }} }}\n", quoted("log.db"));
    if let Some(listen) = listen {
        text += &format!("gateway: {{ listen: \"{listen}\" }}\n");
    }
    text += "collections:\n";
    for name in collections {
        text += &format!("  {name}: {{ partitions: 2 }}\n");
    }
    text + &format!("sinks:\n  file: {{ type: sqlite, path: {} }}\n", quoted("hub.sqlite"))
}

async fn open(text: &str) -> Result<Hub, Failure> {
    let config = Config::parse("(built in)", text, &|_| None)?;
    Ok(Hub::open(config, Env::system()).await?)
}

impl Dev {
    pub(crate) async fn run(self) -> Outcome {
        let mut collections: BTreeSet<String> = self.collections.into_iter().collect();
        let known = open(&config(&self.data, None, &BTreeSet::new())).await?;
        let recorded = lives::recorded(&*known.log).await.map_err(Failure::failed)?;
        collections.extend(recorded.into_keys().map(|collection| collection.to_string()));
        drop(known);
        let hub = Arc::new(open(&config(&self.data, Some(self.listen), &collections)).await?);
        let shutdown = interrupted();
        let running = Running::start(hub.clone(), &[], shutdown.clone()).await?;
        run::announce(&hub, &running);
        remark(&format!("collections: {}", collections.into_iter().collect::<Vec<_>>().join(", ")));
        let address = running.listen.map_or_else(String::new, |address| address.to_string());
        remark(&format!(
            "try: curl -X PUT http://{address}/v1/collections/flights/entities/UA1 -d '{{\"status\":\"landed\"}}'"
        ));
        run::finish(running, shutdown).await
    }
}

impl Quickstart {
    pub(crate) async fn run(self) -> Outcome {
        let collections = example::COLLECTIONS.iter().map(|name| (*name).to_owned()).collect();
        let text = config(&self.data, Some(free_port().await), &collections);
        std::fs::create_dir_all(&self.data).map_err(|e| Failure::failed(format!("{}: {e}", self.data.display())))?;
        let written = self.data.join("primalcore.yaml");
        std::fs::write(&written, &text).map_err(|e| Failure::failed(format!("{}: {e}", written.display())))?;
        let hub = Arc::new(open(&text).await?);
        let shutdown = interrupted();
        let running = Running::start(hub.clone(), &[], shutdown.clone()).await?;
        let done = self.show(&hub, &running, &shutdown).await;
        if self.exit || done.is_err() || shutdown.is_cancelled() {
            shutdown.cancel();
            let ended = run::finish(running, shutdown).await;
            return done.and(ended);
        }
        remark("\nThe hub goes on. Ctrl-C ends it in good order.");
        run::finish(running, shutdown).await
    }

    /// Publishes, waits for the store, verifies, and says what to try next.
    async fn show(&self, hub: &Arc<Hub>, running: &Running, shutdown: &CancellationToken) -> Outcome {
        let address = running.listen.map_or_else(String::new, |address| address.to_string());
        remark(&format!("log:     {} (SQLite, fsync on every commit)", self.data.join("log.db").display()));
        remark(&format!("store:   {} (SQLite)", self.data.join("hub.sqlite").display()));
        remark(&format!("gateway: http://{address}\n"));
        let events = example::week()?;
        let bar = Arc::new(Bar::new());
        bar.begin("publish", events.lines().count() as u64);
        let started = Instant::now();
        let told = bar.clone();
        let how = How { concurrency: 4, skip_bad: false };
        let progress = Arc::new(move |events| told.advance(events));
        let input = std::io::Cursor::new(events.into_bytes());
        let summary = lines::publish(&running.producer, input, how, progress).await.map_err(Failure::failed)?;
        bar.finish();
        let seconds = started.elapsed().as_secs_f64();
        output::line(&format!(
            "published {} events in {seconds:.2} s{}",
            grouped(summary.sent),
            if summary.repeated > 0 {
                format!("; {} were in the log already and were not doubled", grouped(summary.repeated))
            } else {
                String::new()
            }
        ));
        let started = Instant::now();
        caught_up(hub, shutdown).await?;
        output::line(&format!("applied to the store {:.2} s later", started.elapsed().as_secs_f64()));
        let sink = hub.config.sink("file").map_err(Failure::usage)?;
        let reports = audit::reports(hub, sink, None).await?;
        audit::show(&reports);
        audit::judge(&reports)?;
        self.next_steps(&address);
        Ok(())
    }

    fn next_steps(&self, address: &str) {
        let (data, config) = (self.data.join("hub.sqlite"), self.data.join("primalcore.yaml"));
        let (data, config) = (data.display(), config.display());
        output::line(&format!(
            "\nTry next (the hub's config is {config}):\n\
             \n  sqlite3 {data} \"select data->>'dest', count(*) from flights group by 1 order by 2 desc limit 5\"\
             \n  curl -X PUT http://{address}/v1/collections/flights/entities/UA1545-EWR-2013-01-01T10 -d '{{\"status\":\"diverted\"}}'\
             \n  primalcore state -c {config} --collection flights --key UA1545-EWR-2013-01-01T10 --history\
             \n  primalcore status -c {config}\
             \n  replay -c {config} --sink file --from earliest --execute\
             \n  primalcore audit verify -c {config} --sink file"
        ));
    }
}

/// Waits until the store has everything that the log has.
async fn caught_up(hub: &Hub, shutdown: &CancellationToken) -> Outcome {
    let until = Instant::now() + PATIENCE;
    loop {
        let rows = rows(hub).await?;
        if rows.iter().all(|row| row.lag_events == Some(0)) {
            return Ok(());
        }
        if shutdown.is_cancelled() {
            return Err(Failure::failed("interrupted; run it again, it goes on from here"));
        }
        if Instant::now() > until {
            let error = rows.into_iter().find_map(|row| row.error).unwrap_or_else(|| "it is slow".to_owned());
            return Err(Failure::failed(format!("the store did not catch up: {error}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The usual port, or any other when somebody has it.
async fn free_port() -> SocketAddr {
    let usual = SocketAddr::from(([127, 0, 0, 1], 8080));
    match tokio::net::TcpListener::bind(usual).await {
        Ok(_) => usual,
        Err(_) => SocketAddr::from(([127, 0, 0, 1], 0)),
    }
}
