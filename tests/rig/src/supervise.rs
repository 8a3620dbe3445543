//! A program -> the program kept running: started again when it ends, on another port when its
//! own was taken, and given up, with the reason, when it never runs. IO.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ports::Port;
use crate::process::{self, Spec};

/// Between two starts.
const PAUSE: Duration = Duration::from_secs(1);
/// A program that ran this long was up: what came before is forgotten.
const RAN_WELL: Duration = Duration::from_secs(10);
/// Ports lost in a row before a program is given up.
const LOST_LIMIT: usize = 10;
/// Ends in a row before a program is given up.
const ENDS_LIMIT: usize = 30;
/// As much of a log is read to learn why a program ended.
const LOG_END_BYTES: u64 = 64 * 1024;

/// What became of a program under supervision; cheap to clone.
#[derive(Clone, Debug)]
pub struct Life {
    name: String,
    ends: Arc<Mutex<Vec<String>>>,
    gave_up: CancellationToken,
}

impl Life {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ends: Arc::default(),
            gave_up: CancellationToken::new(),
        }
    }

    /// Resolves when the program will not be started any more because it never ran.
    pub async fn given_up(&self) {
        self.gave_up.cancelled().await;
    }

    /// The ends since the program last ran well, oldest first; empty when there was none.
    pub fn ends(&self) -> Vec<String> {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        ends.iter()
            .map(|end| format!("{} {end}", self.name))
            .collect()
    }

    /// Remembers an end and returns how many there were in a row.
    fn ended(&self, how: String, ran: Duration) -> usize {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if ran >= RAN_WELL {
            ends.clear();
        }
        ends.push(how);
        ends.len()
    }
}

/// Keeps a program running until told to stop; one that dies comes back, as it would under a
/// real node's service manager.
pub fn supervise(stop: &CancellationToken, name: &str, spec: Spec) -> Life {
    let life = Life::new(name);
    tokio::spawn(keep(
        stop.clone(),
        life.clone(),
        move |_| spec.clone(),
        None,
    ));
    life
}

/// The same for a program that listens on a port: `spec` says how it is started on one. Where
/// it listens now is in the receiver; it moves when the port is taken by somebody else.
pub fn supervise_on_a_port<F>(
    stop: &CancellationToken,
    name: &str,
    port: Port,
    spec: F,
) -> (Life, watch::Receiver<SocketAddr>)
where
    F: Fn(SocketAddr) -> Spec + Send + 'static,
{
    let life = Life::new(name);
    let (sender, place) = watch::channel(port.address());
    tokio::spawn(keep(stop.clone(), life.clone(), spec, Some((port, sender))));
    (life, place)
}

async fn keep<F>(
    stop: CancellationToken,
    life: Life,
    spec: F,
    mut place: Option<(Port, watch::Sender<SocketAddr>)>,
) where
    F: Fn(SocketAddr) -> Spec + Send + 'static,
{
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut lost = 0;
    loop {
        let spec = spec(place.as_ref().map_or(nowhere, |(port, _)| port.address()));
        let (began, log_from) = (Instant::now(), length(&spec.log));
        let mut how = match process::spawn(&spec) {
            Ok(mut child) => tokio::select! {
                () = stop.cancelled() => {
                    let _ = child.kill().await;
                    return;
                }
                status = child.wait() => match status {
                    Ok(status) => format!("ended after {:.1?}: {status}", began.elapsed()),
                    Err(error) => format!("cannot be watched: {error}"),
                },
            },
            Err(error) => format!("cannot be started: {error:#}"),
        };
        process::forget(&spec);
        if began.elapsed() >= RAN_WELL {
            lost = 0;
        }
        let mut moved = false;
        if let Some((port, sender)) = &mut place
            && let Some(loss) = loss(port, &spec.log, log_from)
        {
            how = format!("{how}; {loss}");
            lost += 1;
            // The old port is given back after the new one is chosen: they differ.
            match Port::choose() {
                Ok(other) if lost <= LOST_LIMIT => {
                    how = format!("{how}; port {} is tried next", other.number());
                    *port = other;
                    sender.send_replace(port.address());
                    moved = true;
                }
                Ok(_) => how = format!("{how}, for the {lost}th time in a row"),
                Err(error) => how = format!("{how}; {error:#}"),
            }
        }
        tracing::warn!(name = life.name, log = %spec.log.display(), "{how}");
        let ends = life.ended(how, began.elapsed());
        if ends >= ENDS_LIMIT || lost > LOST_LIMIT {
            tracing::error!(name = life.name, ends, "given up");
            life.gave_up.cancel();
            return;
        }
        if !moved {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}

/// Whether a program that ended did so because somebody else has its port, and who.
pub(crate) fn loss(port: &Port, log: &Path, log_from: u64) -> Option<String> {
    let number = port.number();
    if let Some(owner) = port.owner() {
        return Some(format!("its port {number} is taken by {owner}"));
    }
    let said = end_of(log, log_from).to_lowercase();
    said.contains("address already in use").then(|| {
        format!("its port {number} was taken by a process that has given it back meanwhile")
    })
}

pub(crate) fn length(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// The end of what a log holds after its first `from` bytes.
fn end_of(log: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = fs::File::open(log)?;
        let start = from.max(length(log).saturating_sub(LOG_END_BYTES));
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(LOG_END_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::tools;

    /// Redis as a program that listens on a port and ends when it cannot.
    fn redis(folder: &Path) -> impl Fn(SocketAddr) -> Spec + Send + 'static + use<> {
        let (program, folder) = (tools::ensure_redis().unwrap(), folder.to_path_buf());
        move |address| Spec {
            program: program.clone(),
            args: ["--bind", "127.0.0.1", "--save", "", "--port"]
                .map(str::to_owned)
                .into_iter()
                .chain([address.port().to_string()])
                .collect(),
            log: folder.join("redis.log"),
            pid_file: Some(folder.join("redis.pid")),
            ..Spec::default()
        }
    }

    /// Waits, for a minute at most, until something listens where the program is said to be.
    async fn listens(place: &watch::Receiver<SocketAddr>, but: SocketAddr) -> SocketAddr {
        let listens = async {
            loop {
                let now = *place.borrow();
                if now != but && tokio::net::TcpStream::connect(now).await.is_ok() {
                    return now;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), listens)
            .await
            .expect("nothing listens")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_program_whose_port_is_taken_comes_up_on_another() {
        let (folder, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let port = Port::choose().unwrap();
        let taken = port.address();
        let thief = TcpListener::bind(taken).unwrap();
        let (life, place) = supervise_on_a_port(&stop, "redis", port, redis(folder.path()));
        let second = listens(&place, taken).await;
        let ends = life.ends();
        let me = format!("(process {})", std::process::id());
        assert!(
            ends.len() == 1
                && ends[0].contains(&format!("port {} is taken by", taken.port()))
                && ends[0].contains(&me),
            "{ends:?}"
        );
        // It moves again when the port is lost while it is down.
        let pid = fs::read_to_string(folder.path().join("redis.pid")).unwrap();
        let address = second;
        let thief_after = tokio::task::spawn_blocking(move || {
            std::process::Command::new("kill")
                .args(["-9", &pid])
                .status()
                .unwrap();
            let began = Instant::now();
            loop {
                match TcpListener::bind(address) {
                    Ok(listener) => return listener,
                    Err(error) => {
                        assert!(began.elapsed() < Duration::from_mins(1), "{error}");
                    }
                }
            }
        })
        .await
        .unwrap();
        let third = listens(&place, second).await;
        assert!(third != taken && third != second);
        stop.cancel();
        drop((thief, thief_after));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_program_that_never_runs_is_given_up() {
        let (folder, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
        let thieves = Arc::new(Mutex::new(Vec::new()));
        let (all, start) = (thieves.clone(), redis(folder.path()));
        // Whatever it is told is taken first.
        let (life, _) =
            supervise_on_a_port(&stop, "redis", Port::choose().unwrap(), move |address| {
                all.lock()
                    .unwrap()
                    .push(TcpListener::bind(address).unwrap());
                start(address)
            });
        tokio::time::timeout(Duration::from_mins(2), life.given_up())
            .await
            .expect("it goes on for ever");
        let (ends, taken) = (life.ends(), thieves.lock().unwrap().len());
        assert_eq!((ends.len(), taken), (LOST_LIMIT + 1, LOST_LIMIT + 1));
        assert!(
            ends.iter().all(|end| end.contains("is taken by")),
            "{ends:?}"
        );
    }
}
