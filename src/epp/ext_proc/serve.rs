//! Connections of gateways -> streams. IO.
//!
//! A gateway sends all its streams over one connection, and a stream is a few small messages:
//! what they cost is mostly the way from one thread to another. So each connection stays on
//! one thread with a runtime of its own, and everything else the EPP does runs elsewhere.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::exchange::{Exchange, Exchanges};
use super::metered::Metered;
use super::wire::{ProcessingRequest, ProcessingResponse};
use crate::contract;
use crate::epp::authority::Readable;
use crate::telemetry::shutdown::Shutdown;

/// What a message may have beside the body it carries: headers, metadata.
const MESSAGE_OVERHEAD_BYTES: usize = 1 << 20;
/// Unread bytes of one stream, and of one connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Streams of one connection; a gateway opens another connection for more.
const CONNECTION_STREAMS: u32 = 16_384;
/// Connections that wait for their thread.
const ACCEPT_QUEUE: usize = 64;
/// A gateway that is gone without a word is noticed after this and as much again.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A service of gRPC's HTTP/2, as the gRPC library makes them.
pub trait GrpcService:
    tower_service::Service<
        http::Request<tonic::body::Body>,
        Response = http::Response<tonic::body::Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> GrpcService for S where
    S: tower_service::Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<tonic::body::Body>,
            Error = Infallible,
            Future: Send + 'static,
        > + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

/// Serves the listener until shutdown, then waits for open streams as long as `drain` says.
/// `health` answers on the same port.
///
/// # Errors
/// When a thread cannot be started, or its server fails.
pub async fn serve(
    listener: TcpListener,
    exchanges: Exchanges,
    health: impl GrpcService,
    threads: usize,
    drain: Duration,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut connections = Vec::with_capacity(threads);
    let mut ended = Vec::with_capacity(threads);
    for index in 0..threads.max(1) {
        let (sender, receiver) = mpsc::channel(ACCEPT_QUEUE);
        let (exchanges, health, shutdown) = (exchanges.clone(), health.clone(), shutdown.clone());
        let thread = std::thread::Builder::new()
            .name(format!("ext-proc-{index}"))
            .spawn(move || {
                let run = connection_thread(receiver, exchanges, health, drain, &shutdown);
                if run.is_err() {
                    shutdown.begin();
                }
                run
            })
            .context("start a thread for ext_proc connections")?;
        connections.push(sender);
        ended.push(thread);
    }
    accept(&listener, &connections, &shutdown).await;
    drop((listener, connections));
    for thread in ended {
        let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
        joined.map_err(|_| anyhow::anyhow!("a thread of ext_proc connections panicked"))??;
    }
    Ok(())
}

/// Hands connections to the threads in turn.
async fn accept(
    listener: &TcpListener,
    threads: &[mpsc::Sender<std::net::TcpStream>],
    shutdown: &Shutdown,
) {
    let mut turn = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.requested() => return,
        };
        let connection = match accepted.and_then(|(stream, _)| detach(stream)) {
            Ok(connection) => connection,
            Err(error) => {
                // Out of file descriptors, mostly: the next attempt may go better.
                tracing::warn!(%error, "a connection of a gateway was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        turn = (turn + 1) % threads.len();
        if threads[turn].send(connection).await.is_err() {
            return;
        }
    }
}

/// Takes a connection from this runtime, so that another can have it.
fn detach(stream: TcpStream) -> std::io::Result<std::net::TcpStream> {
    // One request is one stream of a few small messages.
    stream.set_nodelay(true)?;
    stream.into_std()
}

fn connection_thread(
    connections: mpsc::Receiver<std::net::TcpStream>,
    exchanges: Exchanges,
    health: impl GrpcService,
    drain: Duration,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    let incoming = ReceiverStream::new(connections)
        .map(|stream| TcpStream::from_std(stream).map(Readable::new));
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(CONNECTION_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_service(health)
        .add_service(ExternalProcessor(exchanges))
        .serve_with_incoming_shutdown(incoming, shutdown.clone().into_requested());
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .context("start a runtime for ext_proc connections")?
        .block_on(async {
            tokio::select! {
                result = server => result.context("ext_proc server"),
                () = drained(drain, shutdown) => {
                    tracing::warn!("streams still open at the end of the drain time were cut");
                    Ok(())
                }
            }
        })
}

/// Large bodies read at one time by each connection thread.
const BLOCKING_THREADS: usize = 2;

async fn drained(limit: Duration, shutdown: &Shutdown) {
    shutdown.requested().await;
    tokio::time::sleep(limit).await;
}

/// The service, as the gRPC library wants it.
#[derive(Clone)]
pub struct ExternalProcessor(pub Exchanges);

impl NamedService for ExternalProcessor {
    const NAME: &'static str = contract::GRPC_EXT_PROC_SERVICE;
}

type Answer =
    Pin<Box<dyn Future<Output = Result<http::Response<tonic::body::Body>, Infallible>> + Send>>;

impl<B> tower_service::Service<http::Request<B>> for ExternalProcessor
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<tonic::codegen::StdError> + Send + 'static,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Answer {
        let exchanges = self.0.clone();
        Box::pin(async move {
            if request.uri().path().rsplit('/').next() != Some("Process") {
                return Ok(Status::unimplemented("the one method is Process").into_http());
            }
            let bounds = exchanges.bounds();
            let largest = bounds.max_body_bytes + MESSAGE_OVERHEAD_BYTES;
            let budget = bounds.budget.clone();
            let mut grpc = Grpc::new(ProstCodec::default()).max_decoding_message_size(largest);
            let request = request.map(|body| Metered::new(body, budget, largest));
            Ok(grpc.streaming(Process(exchanges), request).await)
        })
    }
}

struct Process(Exchanges);

type Replies = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

impl StreamingService<ProcessingRequest> for Process {
    type Response = ProcessingResponse;
    type ResponseStream = Replies;
    type Future = std::future::Ready<Result<Response<Replies>, Status>>;

    fn call(&mut self, request: Request<Streaming<ProcessingRequest>>) -> Self::Future {
        let replies = self.0.begin(request.into_inner()).map(|exchange| {
            let replies: Replies = Box::pin(stream::unfold(exchange, next));
            Response::new(replies)
        });
        std::future::ready(replies)
    }
}

async fn next(mut exchange: Exchange) -> Option<(Result<ProcessingResponse, Status>, Exchange)> {
    let reply = exchange.next().await?;
    Some((reply, exchange))
}

/// The address of a listener, for messages.
///
/// # Errors
/// When the port cannot be had.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("ext_proc server on {address}"))
}
