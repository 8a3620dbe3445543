//! A command -> the same command beside a Redis of its own, told by `REDIS_URL`. IO: starts
//! both on this machine's loopback and ends the server with the command.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::tools;

/// How long the server may take to listen.
const LIMIT: Duration = Duration::from_secs(20);

/// Ends with its owner.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It keeps nothing: there is nothing to wait for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the command; its exit status is the answer.
///
/// # Errors
/// When there is no server, or the command cannot be started.
pub fn run(command: &[String]) -> Result<ExitCode> {
    let (program, args) = command.split_first().context("no command was given")?;
    let folder = tempfile::tempdir().context("make a folder")?;
    let (mut server, address) = start(folder.path())?;
    wait(&mut server, address)?;
    let status = Command::new(program)
        .args(args)
        .env("REDIS_URL", format!("redis://{address}"))
        .status()
        .with_context(|| format!("start {program}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

fn start(folder: &std::path::Path) -> Result<(Server, SocketAddr)> {
    // Free now; should another program take it meanwhile, the server ends and says so.
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context("find a free port")?;
    let server = Command::new(tools::ensure_redis()?)
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--port", &address.port().to_string()])
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()
        .context("start the Redis server")?;
    Ok((Server(server), address))
}

fn wait(server: &mut Server, address: SocketAddr) -> Result<()> {
    let began = Instant::now();
    while TcpStream::connect(address).is_err() {
        if let Some(status) = server.0.try_wait()? {
            bail!("the Redis server ended: {status}");
        }
        if began.elapsed() > LIMIT {
            bail!("the Redis server does not listen on {address}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
