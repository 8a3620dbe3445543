//! The gRPC service: moves messages between streams, sessions and the director. IO, and
//! nothing else.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::ExternalProcessor;
use envoy_types::pb::envoy::service::ext_proc::v3::{ProcessingRequest, ProcessingResponse};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::director::Director;
use super::metrics::Metrics;
use super::session::{BodyMode, Effect, Session};

/// Replies that may wait for a slow gateway before its stream is held back.
const REPLY_QUEUE: usize = 64;

/// The external processor.
#[derive(Clone)]
pub struct Server {
    /// Decides.
    pub director: Arc<Director>,
    /// Counts.
    pub metrics: Metrics,
    /// Mode of the filter the operator manages for this EPP.
    pub managed: Option<BodyMode>,
    /// The largest body held.
    pub body_limit: usize,
}

/// How long headers wait for a body when the gateway does not say whether one comes; below
/// the 200 ms that Envoy waits for an answer by default.
const BODY_IN_DOUBT: Duration = Duration::from_millis(100);

type Replies = mpsc::Sender<Result<ProcessingResponse, Status>>;

#[tonic::async_trait]
impl ExternalProcessor for Server {
    type ProcessStream = Pin<Box<dyn Stream<Item = Result<ProcessingResponse, Status>> + Send>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let (replies, receiver) = mpsc::channel(REPLY_QUEUE);
        let server = self.clone();
        // Owned by the connection: it ends when either direction of the stream does.
        tokio::spawn(async move { server.stream(request.into_inner(), replies).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

impl Server {
    async fn stream(&self, mut messages: Streaming<ProcessingRequest>, replies: Replies) {
        let _open = OpenStream::new(&self.metrics);
        let mut session = Session::new(self.managed, self.body_limit);
        // Dropped with the stream, for whatever reason it ends: nothing stays counted.
        let mut in_flight = None;
        loop {
            let effects = tokio::select! {
                message = messages.message() => {
                    let Ok(Some(message)) = message else { return };
                    session.handle(message)
                }
                () = tokio::time::sleep(BODY_IN_DOUBT), if session.waits_in_doubt() => {
                    session.no_body_came()
                }
                () = replies.closed() => return,
            };
            for effect in effects {
                let sent = match effect {
                    Effect::Send(reply) => replies.send(Ok(*reply)).await.is_ok(),
                    Effect::Skipped => {
                        self.metrics.skipped();
                        true
                    }
                    Effect::Decide => {
                        let (outcome, guard) = self.director.decide(&session).await;
                        in_flight = guard;
                        send_all(&replies, session.decided(&outcome)).await
                    }
                };
                if !sent {
                    return;
                }
            }
            if replies.is_closed() {
                drop(in_flight.take());
                return;
            }
        }
    }
}

async fn send_all(replies: &Replies, effects: Vec<Effect>) -> bool {
    for effect in effects {
        if let Effect::Send(reply) = effect
            && replies.send(Ok(*reply)).await.is_err()
        {
            return false;
        }
    }
    true
}

/// Counts a stream as open until dropped.
struct OpenStream<'a>(&'a Metrics);

impl<'a> OpenStream<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.stream_opened(1);
        Self(metrics)
    }
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.0.stream_opened(-1);
    }
}
