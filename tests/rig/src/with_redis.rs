//! A command -> the same command beside a Redis of its own, told by `REDIS_URL`. IO: starts
//! both on this machine's loopback and ends the server with the command.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::controlplane::tail;
use crate::ports::Port;
use crate::{supervise, tools};

/// How long the server may take to listen, on a machine that is busy.
const LIMIT: Duration = Duration::from_mins(2);
/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Ports that may be lost before this gives up.
const TRIES: usize = 10;

/// Ends with its owner.
#[derive(Debug)]
struct Server {
    child: Child,
    port: Port,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It keeps nothing: there is nothing to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the command; its exit status is the answer.
///
/// # Errors
/// When there is no server, or the command cannot be started.
pub fn run(command: &[String]) -> Result<ExitCode> {
    let (program, args) = command.split_first().context("no command was given")?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let server = start(&tools::ensure_redis()?, folder.path(), Port::choose)?;
    let status = Command::new(program)
        .args(args)
        .env("REDIS_URL", format!("redis://{}", server.port.address()))
        .status()
        .with_context(|| format!("start {program}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// A server that answers. A port that somebody takes in between is chosen anew.
fn start(redis: &Path, folder: &Path, mut choose: impl FnMut() -> Result<Port>) -> Result<Server> {
    let log = folder.join("redis.log");
    let mut port = choose()?;
    let mut losses = Vec::new();
    for _ in 0..TRIES {
        let log_from = supervise::length(&log);
        let file = File::options().create(true).append(true).open(&log)?;
        let child = Command::new(redis)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--port", &port.number().to_string()])
            .current_dir(folder)
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("start the Redis server")?;
        let mut server = Server { child, port };
        if wait(&mut server, &log)? {
            return Ok(server);
        }
        let Some(loss) = supervise::loss(&server.port, &log, log_from) else {
            bail!("the Redis server ended:\n{}", tail(&log));
        };
        eprintln!("rig: the Redis server ended: {loss}; another port is tried");
        losses.push(loss);
        // The old port is given back after the new one is chosen: they differ.
        port = choose()?;
    }
    bail!(
        "the Redis server ended {TRIES} times: {}",
        losses.join(", ")
    )
}

/// Waits until this very server answers; false when it ended.
fn wait(server: &mut Server, log: &Path) -> Result<bool> {
    let (began, address) = (Instant::now(), server.port.address());
    loop {
        // Somebody else may listen there: the answer tells.
        let seen = match process_id(address) {
            Ok(id) if id == server.child.id() => return Ok(true),
            Ok(id) => format!("process {id} answers"),
            Err(error) => format!("{error:#}"),
        };
        if server.child.try_wait()?.is_some() {
            return Ok(false);
        }
        if began.elapsed() > LIMIT {
            bail!(
                "the Redis server does not answer on {address} after {LIMIT:?}: {seen}\n{}",
                tail(log)
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The process id that the server at this address tells.
fn process_id(address: SocketAddr) -> Result<u32> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(b"INFO server\r\n")?;
    let (mut answer, mut part) = (String::new(), [0; 1024]);
    loop {
        let length = stream.read(&mut part)?;
        if length == 0 || answer.len() > 64 * 1024 {
            bail!("no Redis server answers");
        }
        answer += &String::from_utf8_lossy(&part[..length]);
        let id = answer
            .split_once("process_id:")
            .and_then(|(_, rest)| rest.split_once('\r'));
        if let Some((id, _)) = id {
            return id.parse().context("read the server's process id");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_that_is_taken_after_it_was_chosen_is_chosen_anew() {
        let redis = tools::ensure_redis().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut thieves = Vec::new();
        let server = start(&redis, folder.path(), || {
            let port = Port::choose()?;
            if thieves.len() < 2 {
                thieves.push(TcpListener::bind(port.address())?);
            }
            Ok(port)
        })
        .unwrap();
        assert_eq!(thieves.len(), 2, "nothing was taken");
        for thief in &thieves {
            assert_ne!(thief.local_addr().unwrap(), server.port.address());
        }
        assert_eq!(
            process_id(server.port.address()).unwrap(),
            server.child.id()
        );
    }

    #[test]
    fn a_server_that_finds_no_port_says_who_has_them() {
        let redis = tools::ensure_redis().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut thieves = Vec::new();
        let error = start(&redis, folder.path(), || {
            let port = Port::choose()?;
            thieves.push(TcpListener::bind(port.address())?);
            Ok(port)
        })
        .unwrap_err()
        .to_string();
        let first = thieves[0].local_addr().unwrap().port();
        let me = format!("(process {})", std::process::id());
        assert!(
            error.contains(&format!("port {first} is taken by")) && error.contains(&me),
            "{error}"
        );
    }
}
