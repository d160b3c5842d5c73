//! The REST API over TLS.
//!
//! Invariants: an endpoint is reached only through the policy table; every answer that is no success is an
//! [`ApiError`] in JSON, also for what never reached an endpoint; bodies, headers, connections and time are
//! bounded; a request that was begun is carried to its end even when its caller has gone, so nothing stays half
//! made; no token is ever logged.

mod answer;
mod guard;
mod routes;

pub use routes::openapi_json;

use crate::app::App;
use answer::HttpError;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::from_fn_with_state;
use guard::Peer;
use hyper::body::Incoming;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use lifeboat_api::types::{ApiError, ErrorCode};
use lifeboat_base::limits;
use rustls::ServerConfig;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// How long requests under way may take to end when the site stops.
const GRACE: Duration = Duration::from_secs(10);
/// Pause after an accept that failed, for example for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Largest request head.
const MAX_HEAD: usize = 32 << 10;

/// The API as a service without TLS.
fn router(app: Arc<App>) -> Router {
    let (router, _) = routes::all().split_for_parts();
    router
        .route_layer(from_fn_with_state(app.clone(), guard::guard))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(limits::MAX_API_BODY))
        .with_state(app)
}

async fn no_such_path(method: Method, uri: Uri) -> HttpError {
    let path = crate::validate::shown(uri.path());
    ApiError::new(ErrorCode::NotFound, format!("there is no endpoint '{method} {path}'"))
        .hint("the API is described at /v1/openapi.json")
        .into()
}

async fn no_such_method(method: Method, uri: Uri) -> HttpError {
    let path = crate::validate::shown(uri.path());
    let error = ApiError::new(ErrorCode::Invalid, format!("'{path}' does not take {method}"))
        .hint("the API is described at /v1/openapi.json");
    HttpError::with_status(error, StatusCode::METHOD_NOT_ALLOWED)
}

/// Serves the API on `listener` until `shutdown` ends, then lets requests under way end, for a while.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    app: Arc<App>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let acceptor = TlsAcceptor::from(tls);
    let service = router(app);
    let room = Arc::new(Semaphore::new(limits::MAX_API_CONNECTIONS));
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accept = async {
            // Never closed, so this always gives a place in the end.
            let place = room.clone().acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((tcp, address)) => {
                let work = connection(tcp, address, acceptor.clone(), service.clone(), stopping.clone());
                connections.spawn(async move {
                    work.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    let _ = stop.send(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, ended).await.is_err() {
        tracing::warn!("requests still under way are broken off");
    }
    connections.shutdown().await;
}

async fn connection(
    tcp: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    mut stopping: watch::Receiver<bool>,
) {
    let _ = tcp.set_nodelay(true);
    let accept = tokio::time::timeout(limits::HANDSHAKE, acceptor.accept(tcp));
    let accepted = tokio::select! {
        accepted = accept => accepted,
        () = async { drop(stopping.wait_for(|stop| *stop).await) } => return,
    };
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%address, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%address, "TLS handshake took too long"),
    };
    let inner = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Peer(address));
        inner.call(request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HANDSHAKE)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        // An error means that the sender is gone, which also means to stop.
        () = async { drop(stopping.wait_for(|stop| *stop).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%address, %error, "connection ended");
    }
}

#[cfg(test)]
mod tests;
