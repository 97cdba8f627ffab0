//! The admin port: JSON over HTTP.
//!
//! ```text
//! GET  /config          link model, faults and turn
//! POST /config          changes what it names; unknown names are errors
//! GET  /stats           counters
//! POST /stats/reset
//! GET  /log?since=N     requests from sequence number N on
//! POST /log/reset
//! POST /seed            makes many objects; see `backend/seeded.rs`
//! GET  /objects?bucket=B&prefix=P    keys and sizes, seen without a request to S3
//! ```

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::backend::{Backend, SeedRequest};
use crate::server::Server;

/// Answers admin requests for as long as it is polled.
pub(crate) async fn serve(server: Arc<Server>, backend: Backend, listener: TcpListener) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let _ = socket.set_nodelay(true);
        let (server, backend) = (Arc::clone(&server), backend.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| answer(&server, &backend, request));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

async fn answer(
    server: &Server,
    backend: &Backend,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let (status, answer) = match route(server, backend, &parts, &body) {
        Ok(answer) => (StatusCode::OK, answer),
        Err(Refusal { status, reason }) => (status, json!({ "error": reason })),
    };
    let mut response = Response::new(Full::from(answer.to_string()));
    *response.status_mut() = status;
    Ok(response)
}

struct Refusal {
    status: StatusCode,
    reason: String,
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason }
    }
}

fn route(
    server: &Server,
    backend: &Backend,
    request: &hyper::http::request::Parts,
    body: &[u8],
) -> Result<Value, Refusal> {
    match (&request.method, request.uri.path()) {
        (&Method::GET, "/config") => Ok(server.settings().show()),
        (&Method::POST, "/config") => {
            let mut settings = server.settings();
            settings.change(body)?;
            Ok(settings.show())
        }
        (&Method::GET, "/stats") => Ok(json!(server.stats.report())),
        (&Method::POST, "/stats/reset") => {
            server.stats.reset();
            Ok(json!({}))
        }
        (&Method::GET, "/log") => Ok(server.log.since(since(request.uri.query())?)),
        (&Method::POST, "/log/reset") => {
            server.log.clear();
            Ok(json!({}))
        }
        (&Method::POST, "/seed") => {
            let seed =
                serde_json::from_slice::<SeedRequest>(body).map_err(|error| error.to_string())?;
            backend.seed(&seed)?;
            Ok(json!({}))
        }
        (&Method::GET, "/objects") => {
            let (bucket, prefix) = place(request.uri.query())?;
            Ok(json!({ "objects": backend.sizes(&bucket, &prefix) }))
        }
        _ => Err(Refusal { status: StatusCode::NOT_FOUND, reason: "no such page".into() }),
    }
}

fn since(query: Option<&str>) -> Result<u64, String> {
    let Some(query) = query else { return Ok(0) };
    let number = query.strip_prefix("since=").and_then(|digits| digits.parse().ok());
    number.ok_or_else(|| format!("not since=NUMBER: {query}"))
}

fn place(query: Option<&str>) -> Result<(String, String), String> {
    let query = query.unwrap_or_default();
    let wrong = || format!("not bucket=NAME&prefix=PREFIX: {query}");
    let names = query.strip_prefix("bucket=").and_then(|rest| rest.split_once("&prefix="));
    let (bucket, prefix) = names.ok_or_else(wrong)?;
    let decoded = |text| urlencoding::decode(text).map(std::borrow::Cow::into_owned);
    decoded(bucket).and_then(|bucket| Ok((bucket, decoded(prefix)?))).map_err(|_| wrong())
}
