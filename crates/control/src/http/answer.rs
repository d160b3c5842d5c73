//! Requests in, answers out, with every error in the API's own form.

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use lifeboat_api::types::{ApiError, ErrorCode};
use lifeboat_base::limits;
use serde::de::DeserializeOwned;

/// An [`ApiError`] as an answer.
#[derive(Debug, Clone)]
pub(super) struct HttpError {
    error: ApiError,
    status: StatusCode,
}

/// Rides in an answer's extensions, so that the guard can audit it.
#[derive(Debug, Clone)]
pub(super) struct Refused(pub ApiError);

impl HttpError {
    pub fn with_status(error: ApiError, status: StatusCode) -> Self {
        Self { error, status }
    }
}

impl From<ApiError> for HttpError {
    fn from(error: ApiError) -> Self {
        Self { status: status(error.code), error }
    }
}

pub(super) fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Invalid => StatusCode::BAD_REQUEST,
        ErrorCode::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict => StatusCode::CONFLICT,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::Corrupt | ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(&self.error)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(Refused(self.error));
        response
    }
}

fn invalid(message: String) -> HttpError {
    ApiError::new(ErrorCode::Invalid, message).hint("the API is described at /v1/openapi.json").into()
}

/// A JSON body of type `T`, at most [`limits::MAX_API_BODY`].
pub(super) struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = HttpError;

    async fn from_request(request: Request, state: &S) -> Result<Self, HttpError> {
        let kind = request.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !kind.split(';').next().is_some_and(|k| k.trim().eq_ignore_ascii_case("application/json")) {
            let error = ApiError::new(ErrorCode::Invalid, "the body is not said to be JSON")
                .hint("send `Content-Type: application/json`");
            return Err(HttpError::with_status(error, StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(broken)?;
        // Nesting is bounded by the parser (128 levels).
        let value = serde_json::from_slice(&bytes)
            .map_err(|e| invalid(format!("the body is not what this endpoint takes: {e}")))?;
        Ok(Self(value))
    }
}

fn broken(rejection: BytesRejection) -> HttpError {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let error = ApiError::new(
            ErrorCode::Invalid,
            format!("the body is larger than {} bytes", limits::MAX_API_BODY),
        );
        return HttpError::with_status(error, StatusCode::PAYLOAD_TOO_LARGE);
    }
    invalid("the body broke off".into())
}

/// What the path's variables say.
pub(super) struct Arg<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Arg<T> {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(e) => {
                Err(invalid(format!("the path makes no sense: {}", crate::validate::shown(&e.body_text()))))
            }
        }
    }
}

/// What the query string says.
pub(super) struct Asked<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(e) => Err(invalid(format!("the query makes no sense: {}", e.body_text()))),
        }
    }
}
