//! A file's content as the body of an answer, of any length.
//!
//! Invariants: at most what the data side's queue holds is in memory; content that fails half way breaks the
//! connection off, so nobody takes a part for the whole.

use super::super::answer::HttpError;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use hyper::body::Frame;
use lifeboat_api::port::Content;
use lifeboat_api::types::ApiError;
use std::pin::Pin;
use std::task::{Context, Poll};

pub(super) type Whole = Result<Response, HttpError>;

struct Pieces(Content);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = ApiError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ApiError>>> {
        self.0.poll_recv(context).map(|piece| {
            piece.map(|p| {
                p.inspect_err(|error| tracing::warn!(%error, "a file's content broke off")).map(Frame::data)
            })
        })
    }
}

pub(super) fn whole(content: Content) -> Response {
    let mut response = Response::new(Body::new(Pieces(content)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}
