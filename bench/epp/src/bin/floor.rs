//! The floor: an ext_proc server that decides nothing. It hands every request to the next
//! endpoint in turn and every chunk back as it came, which no endpoint picker can do for less.
//! IO; speaks full duplex only, and must not grow features that the comparison does not need.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::ext_proc::v3::body_mutation::Mutation;
use envoy_types::pb::envoy::service::ext_proc::v3::external_processor_server::{
    ExternalProcessor, ExternalProcessorServer,
};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request::Request as Asked;
use envoy_types::pb::envoy::service::ext_proc::v3::processing_response::Response as Said;
use envoy_types::pb::envoy::service::ext_proc::v3::{
    BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse, HttpBody,
    ProcessingRequest, ProcessingResponse, StreamedBodyResponse, TrailersResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Larger than any chunk that Envoy sends.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// A bare ext_proc server.
#[derive(Parser)]
struct Args {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Endpoints in turn, `ip:port` one a line.
    #[arg(long)]
    endpoints: PathBuf,
    /// How long it thinks before each decision, in milliseconds.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
}

struct Floor {
    endpoints: &'static [String],
    turn: &'static AtomicUsize,
    delay: Duration,
}

type Replies = mpsc::Sender<Result<ProcessingResponse, Status>>;

#[tonic::async_trait]
impl ExternalProcessor for Floor {
    type ProcessStream = ReceiverStream<Result<ProcessingResponse, Status>>;

    async fn process(
        &self,
        request: Request<Streaming<ProcessingRequest>>,
    ) -> Result<Response<Self::ProcessStream>, Status> {
        let (replies, receiver) = mpsc::channel(16);
        let stream = Stream {
            endpoints: self.endpoints,
            turn: self.turn,
            delay: self.delay,
            held: Vec::new(),
            replies,
        };
        tokio::spawn(stream.run(request.into_inner()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct Stream {
    endpoints: &'static [String],
    turn: &'static AtomicUsize,
    delay: Duration,
    held: Vec<HttpBody>,
    replies: Replies,
}

impl Stream {
    async fn run(mut self, mut messages: Streaming<ProcessingRequest>) {
        while let Ok(Some(message)) = messages.message().await {
            let Some(asked) = message.request else {
                continue;
            };
            if self.answer(asked).await.is_none() {
                return;
            }
        }
    }

    /// `None` when nobody listens any more.
    async fn answer(&mut self, asked: Asked) -> Option<()> {
        match asked {
            Asked::RequestHeaders(headers) if headers.end_of_stream => self.decide().await,
            Asked::RequestHeaders(_) => Some(()),
            Asked::RequestBody(body) => {
                let last = body.end_of_stream;
                self.held.push(body);
                if last {
                    self.decide().await?;
                    for body in std::mem::take(&mut self.held) {
                        self.say(Said::RequestBody(echo(body))).await?;
                    }
                }
                Some(())
            }
            Asked::RequestTrailers(_) => {
                self.decide().await?;
                for body in std::mem::take(&mut self.held) {
                    self.say(Said::RequestBody(echo(body))).await?;
                }
                self.say(Said::RequestTrailers(TrailersResponse::default()))
                    .await
            }
            Asked::ResponseHeaders(_) => {
                self.say(Said::ResponseHeaders(HeadersResponse::default()))
                    .await
            }
            Asked::ResponseBody(body) => self.say(Said::ResponseBody(echo(body))).await,
            Asked::ResponseTrailers(_) => {
                self.say(Said::ResponseTrailers(TrailersResponse::default()))
                    .await
            }
        }
    }

    async fn decide(&self) -> Option<()> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
        let header = HeaderValue {
            key: "x-gateway-destination-endpoint".to_owned(),
            raw_value: self.endpoints[turn].clone().into_bytes(),
            ..HeaderValue::default()
        };
        let common = CommonResponse {
            header_mutation: Some(HeaderMutation {
                set_headers: vec![HeaderValueOption {
                    header: Some(header),
                    ..HeaderValueOption::default()
                }],
                ..HeaderMutation::default()
            }),
            clear_route_cache: true,
            ..CommonResponse::default()
        };
        self.say(Said::RequestHeaders(HeadersResponse {
            response: Some(common),
        }))
        .await
    }

    async fn say(&self, said: Said) -> Option<()> {
        let reply = ProcessingResponse {
            response: Some(said),
            ..ProcessingResponse::default()
        };
        self.replies.send(Ok(reply)).await.ok()
    }
}

fn echo(body: HttpBody) -> BodyResponse {
    let chunk = StreamedBodyResponse {
        body: body.body,
        end_of_stream: body.end_of_stream,
        ..StreamedBodyResponse::default()
    };
    BodyResponse {
        response: Some(CommonResponse {
            body_mutation: Some(BodyMutation {
                mutation: Some(Mutation::StreamedResponse(chunk)),
            }),
            ..CommonResponse::default()
        }),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let text = std::fs::read_to_string(&args.endpoints)
        .with_context(|| format!("read {}", args.endpoints.display()))?;
    let endpoints: Vec<String> = text.lines().map(str::to_owned).collect();
    anyhow::ensure!(!endpoints.is_empty(), "no endpoints");
    // For as long as the process lives: streams share them without counting references.
    let floor = Floor {
        endpoints: endpoints.leak(),
        turn: Box::leak(Box::new(AtomicUsize::new(0))),
        delay: Duration::from_millis(args.delay_ms),
    };
    let service = ExternalProcessorServer::new(floor).max_decoding_message_size(MAX_MESSAGE_BYTES);
    Server::builder()
        .initial_connection_window_size(8 << 20)
        .initial_stream_window_size(2 << 20)
        .add_service(service)
        .serve(args.listen)
        .await
        .with_context(|| format!("serve on {}", args.listen))
}
