//! An S3 service in this process (s3s-fs), which can be told to answer badly.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;

pub const KEY: &str = "lifeboat-key";
pub const SECRET: &str = "lifeboat-secret";

/// How a request is answered.
#[derive(Clone)]
pub enum Act {
    /// Without the service having seen it.
    Answer(u16, String),
    /// As above, with a header.
    AnswerWith(u16, &'static str, String, String),
    /// The service carries it out, and this is what the client gets.
    DoneBut(u16, String),
    /// The service carries it out, and the connection is cut.
    DoneAndCut,
    /// The connection is cut at once.
    Cut,
    /// Half of the content, then a cut.
    Half,
    /// No answer, ever.
    Stall,
    /// The service does not see this header.
    Forget(&'static str),
}

struct Fault {
    method: Method,
    part: &'static str,
    times: usize,
    act: Act,
}

#[derive(Default)]
struct Plan {
    /// Signatures are not looked at.
    anonymous: bool,
    faults: Vec<Fault>,
    /// Method and path with query, and the body of what was answered without the service.
    log: Vec<(Method, String, Bytes)>,
}

pub struct Server {
    pub address: SocketAddr,
    plan: Arc<Mutex<Plan>>,
    _runtime: Runtime,
    _dir: tempfile::TempDir,
}

type Tls = Option<tokio_rustls::TlsAcceptor>;

impl Server {
    pub fn start() -> Self {
        Self::with(true, None)
    }

    pub fn with(auth: bool, tls: Tls) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("bucket")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir.path()).unwrap());
        if auth {
            builder.set_auth(SimpleAuth::from_single(KEY, SECRET));
        }
        let service = builder.build();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let plan = Arc::new(Mutex::new(Plan { anonymous: !auth, ..Plan::default() }));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(accept(listener, service, plan.clone(), tls));
        Self { address, plan, _runtime: runtime, _dir: dir }
    }

    /// The next so many requests of a method whose path and query contain `part` are answered so.
    pub fn fault(&self, times: usize, method: Method, part: &'static str, act: Act) {
        self.plan.lock().faults.push(Fault { method, part, times, act });
    }

    pub fn forget_faults(&self) {
        let mut plan = self.plan.lock();
        plan.faults.clear();
        plan.log.clear();
    }

    /// Requests of a method whose path and query contain `part`, since the faults were forgotten.
    pub fn seen(&self, method: Method, part: &str) -> usize {
        self.plan.lock().log.iter().filter(|(m, uri, _)| *m == method && uri.contains(part)).count()
    }

    /// Bodies of those the service did not see.
    pub fn bodies(&self, method: Method, part: &str) -> Vec<Bytes> {
        let plan = self.plan.lock();
        let fits = plan.log.iter().filter(|(m, uri, _)| *m == method && uri.contains(part));
        fits.map(|(_, _, body)| body.clone()).collect()
    }
}

async fn accept(listener: tokio::net::TcpListener, service: S3Service, plan: Arc<Mutex<Plan>>, tls: Tls) {
    // The service looks and then writes; one writer at a time makes its conditional writes true.
    let writers = Arc::new(tokio::sync::Mutex::new(()));
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (service, plan, writers, tls) = (service.clone(), plan.clone(), writers.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(socket, service, plan, writers).await,
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        serve(socket, service, plan, writers).await;
                    }
                }
            }
        });
    }
}

async fn serve(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    service: S3Service,
    plan: Arc<Mutex<Plan>>,
    writers: Arc<tokio::sync::Mutex<()>>,
) {
    let handler = service_fn(move |request: Request<Incoming>| {
        handle(request, service.clone(), plan.clone(), writers.clone())
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), handler).await;
}

/// A body that ends with an error where it is shorter than was promised.
struct Content {
    next: Option<Bytes>,
    len: u64,
}

impl Content {
    fn whole(bytes: Bytes) -> Self {
        Self { len: bytes.len() as u64, next: Some(bytes) }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.next.take() {
            Some(bytes) => {
                self.len -= bytes.len() as u64;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            None if self.len > 0 => Poll::Ready(Some(Err(cut()))),
            None => Poll::Ready(None),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len)
    }
}

fn cut() -> io::Error {
    io::Error::other("cut by the test")
}

/// Takes the fault meant for this request.
fn fault(plan: &Mutex<Plan>, request: &Request<Incoming>) -> Option<Act> {
    let mut plan = plan.lock();
    let uri = request.uri().path_and_query().unwrap().to_string();
    let method = request.method().clone();
    plan.log.push((method.clone(), uri.clone(), Bytes::new()));
    let fits = |f: &&mut Fault| f.times > 0 && f.method == method && uri.contains(f.part);
    let found = plan.faults.iter_mut().find(fits)?;
    found.times -= 1;
    Some(found.act.clone())
}

fn answer(status: u16, body: impl Into<Bytes>) -> Response<Content> {
    let mut answer = Response::new(Content::whole(body.into()));
    *answer.status_mut() = StatusCode::from_u16(status).unwrap();
    answer
}

async fn handle(
    mut request: Request<Incoming>,
    service: S3Service,
    plan: Arc<Mutex<Plan>>,
    writers: Arc<tokio::sync::Mutex<()>>,
) -> Result<Response<Content>, io::Error> {
    let act = fault(&plan, &request);
    let at = plan.lock().log.len() - 1;
    match act {
        Some(Act::Cut) => return Err(cut()),
        Some(Act::Stall) => std::future::pending().await,
        Some(Act::Answer(status, body)) => {
            let sent = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
            plan.lock().log[at].2 = sent;
            return Ok(answer(status, body));
        }
        Some(Act::AnswerWith(status, header, value, body)) => {
            let mut answer = answer(status, body);
            answer.headers_mut().insert(header, value.parse().unwrap());
            return Ok(answer);
        }
        Some(Act::Forget(header)) => {
            request.headers_mut().remove(header);
        }
        _ => {}
    }
    if plan.lock().anonymous {
        request.headers_mut().remove(http::header::AUTHORIZATION);
    }
    // The service cannot give the end of an object without content; others refuse it.
    if request.uri().path().ends_with("/empty") && request.headers().contains_key(http::header::RANGE) {
        return Ok(answer(416, ""));
    }
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let writing = if reads { None } else { Some(writers.lock().await) };
    let done = hyper::service::Service::call(&service, request).await.map_err(|_| cut())?;
    let (parts, body) = done.into_parts();
    let body = body.collect().await.map_err(|_| cut())?.to_bytes();
    drop(writing);
    match act {
        Some(Act::DoneAndCut) => Err(cut()),
        Some(Act::DoneBut(status, body)) => Ok(answer(status, body)),
        Some(Act::Half) => {
            let half = Content { next: Some(body.slice(..body.len() / 2)), len: body.len() as u64 };
            Ok(Response::from_parts(parts, half))
        }
        _ => Ok(Response::from_parts(parts, Content::whole(body))),
    }
}
