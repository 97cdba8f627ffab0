//! The data port: a request comes in, waits as the link model says, meets its fault or the S3
//! service, and is answered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, ETAG, EXPECT};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::service::S3Service;
use s3s::{Body, S3Error, S3ErrorCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::body::{Damage, Meter, Shaped};
use crate::config::Settings;
use crate::error_text;
use crate::exchange::Exchange;
use crate::faults::{FaultKind, Plan};
use crate::link::{Crossing, Direction, LinkModel, TIMER_LATE, Wire};
use crate::log::Log;
use crate::operation::Asked;
use crate::stats::Stats;

/// What the data port and the admin port share.
pub(crate) struct Server {
    pub(crate) settings: Mutex<Settings>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) log: Log,
    service: S3Service,
    shared_wire: Arc<Wire>,
}

/// Why a connection ends without an answer.
#[derive(Debug)]
struct ConnectionReset;

impl std::fmt::Display for ConnectionReset {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("reset on purpose")
    }
}

impl std::error::Error for ConnectionReset {}

/// A client's connection.
#[derive(Default)]
struct Connection {
    wire: Arc<Wire>,
    /// Whether it is to end with a reset.
    reset: AtomicBool,
}

impl Server {
    pub(crate) fn new(settings: Settings, service: S3Service) -> Self {
        Self {
            settings: Mutex::new(settings),
            stats: Arc::default(),
            log: Log::default(),
            service,
            shared_wire: Arc::default(),
        }
    }

    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().expect("no panic under the lock")
    }

    /// Serves S3 for as long as it is polled.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((socket, _)) => {
                    tokio::spawn(Arc::clone(&self).serve_connection(socket));
                }
                // Out of descriptors, or a client that was gone already: the next one may do.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            }
        }
    }

    async fn serve_connection(self: Arc<Self>, socket: TcpStream) {
        let _connected = self.stats.connect();
        // Without it, answers wait 40 ms for an acknowledgement.
        if socket.set_nodelay(true).is_err() {
            return;
        }
        let connection = Arc::new(Connection::default());
        let service = service_fn(|request| {
            let (server, connection) = (Arc::clone(&self), Arc::clone(&connection));
            async move { server.answer(&connection, request).await }
        });
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new());
        let mut http = builder.serve_connection(TokioIo::new(socket), service);
        // A broken connection is the client's business, or was our purpose.
        let _ = (&mut http).await;
        if connection.reset.load(Ordering::Relaxed) {
            let _ = http.into_parts().io.into_inner().set_zero_linger();
        }
    }

    async fn answer(
        &self,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> Result<Response<Shaped>, ConnectionReset> {
        let arrived = Instant::now();
        let (parts, body) = request.into_parts();
        let asked = Asked::from(&parts);
        let (link, wait, plan) = {
            let mut settings = self.settings();
            (settings.link, settings.first_byte(&asked), settings.plan(&asked))
        };
        let in_flight = self.stats.enter(&asked);
        let exchange = self.log.begin(asked, plan.as_ref().map(|plan| plan.kind));
        let begins = arrived + wait;
        if !wait.is_zero() {
            tokio::time::sleep_until(begins - TIMER_LATE).await;
        }

        let crossing = self.crossing(&link, connection, Direction::Upload, arrived, None);
        let meter = self.meter(Direction::Upload, &exchange);
        let body = Shaped::new(Body::from(body), crossing, meter);
        let fault = plan.as_ref().map(|plan| plan.kind);
        let response = match fault {
            Some(kind @ FaultKind::ResetBefore) => return Err(self.reset(connection, kind)),
            Some(kind @ (FaultKind::SlowDown | FaultKind::InternalError)) => {
                self.stats.count_fault(kind);
                if !parts.headers.contains_key(EXPECT) {
                    discard(body).await;
                }
                refusal(kind)
            }
            _ => self.execute(parts, body, &exchange).await?,
        };
        if let Some(kind @ FaultKind::ResetAfter) = fault {
            return Err(self.reset(connection, kind));
        }
        let mut response = self.complete(response, &exchange).await;

        let (mut damage, mut rate) = (None, None);
        match plan.and_then(|plan| self.damage(&plan, &mut response, &exchange)) {
            Some(Applied::Body(what)) => damage = Some(what),
            Some(Applied::Rate(bytes_per_s)) => rate = Some(bytes_per_s),
            Some(Applied::Before) | None => {}
        }
        let crossing = self.crossing(&link, connection, Direction::Download, begins, rate);
        let meter = self.meter(Direction::Download, &exchange);
        Ok(response.map(|body| {
            Shaped::new(body, crossing, meter).with_damage(damage).with_guard(in_flight)
        }))
    }

    /// Sees to it that the connection ends with a reset.
    fn reset(&self, connection: &Connection, kind: FaultKind) -> ConnectionReset {
        self.stats.count_fault(kind);
        connection.reset.store(true, Ordering::Relaxed);
        ConnectionReset
    }

    /// Has the S3 service do it.
    async fn execute(
        &self,
        parts: Parts,
        body: Shaped,
        exchange: &Arc<Exchange>,
    ) -> Result<Response<Body>, ConnectionReset> {
        let is_empty = body.is_end_stream();
        let body = if is_empty { Body::empty() } else { Body::http_body_unsync(body) };
        let mut request = Request::from_parts(parts, body);
        request.extensions_mut().insert(Arc::clone(exchange));
        self.service.call(request).await.map_err(|_| ConnectionReset)
    }

    /// Notes how it went, and gives the answer its name.
    async fn complete(&self, response: Response<Body>, exchange: &Exchange) -> Response<Body> {
        let status = response.status().as_u16();
        exchange.set_status(status);
        self.stats.count_status(status);
        let id = format!("{:016X}", exchange.sequence());
        let mut response = error_text::complete(response, &id).await;
        if let Ok(id) = id.try_into() {
            response.headers_mut().insert("x-amz-request-id", id);
        }
        response
    }

    fn meter(&self, direction: Direction, exchange: &Arc<Exchange>) -> Meter {
        Meter { direction, exchange: Arc::clone(exchange), stats: Arc::clone(&self.stats) }
    }

    fn crossing(
        &self,
        link: &LinkModel,
        connection: &Connection,
        direction: Direction,
        start: Instant,
        rate: Option<f64>,
    ) -> Option<Crossing> {
        Crossing::new(link, direction, (&connection.wire, &self.shared_wire), start, rate)
    }

    /// Does to the answer what is planned, where it can be done; otherwise the fault is for another
    /// request.
    fn damage(
        &self,
        plan: &Plan,
        response: &mut Response<Body>,
        exchange: &Exchange,
    ) -> Option<Applied> {
        // What happens to bodies happens to those that were asked for.
        let length = response.body().size_hint().exact();
        let length = length.filter(|_| response.status().is_success());
        let place = length.and_then(|length| plan.place(length));
        let applied = match plan.kind {
            FaultKind::Truncate => place.map(|at| Applied::Body(Damage::Truncate { at })),
            FaultKind::FlipByte => place.map(|at| Applied::Body(Damage::Flip { at })),
            FaultKind::Stall => {
                place.map(|at| Applied::Body(Damage::Stall { at, time: plan.stall }))
            }
            FaultKind::ShortBody => place.map(|at| {
                response.headers_mut().insert(CONTENT_LENGTH, at.into());
                Applied::Body(Damage::Short { at })
            }),
            #[expect(clippy::cast_precision_loss)]
            FaultKind::Slow => place.map(|_| Applied::Rate(plan.bytes_per_s as f64)),
            FaultKind::WrongEtag => response.headers_mut().get_mut(ETAG).map(|etag| {
                *etag =
                    hyper::header::HeaderValue::from_static("\"00000000000000000000000000000bad\"");
                Applied::Before
            }),
            FaultKind::IgnoreRange | FaultKind::IgnoreConditions => Some(Applied::Before),
            // Counted when they happened.
            FaultKind::SlowDown
            | FaultKind::InternalError
            | FaultKind::ResetBefore
            | FaultKind::ResetAfter => return None,
        };
        if applied.is_some() {
            self.stats.count_fault(plan.kind);
        } else {
            self.settings().refund(plan);
            exchange.clear_fault();
        }
        applied
    }
}

/// What a fault still has to do when the answer's headers are done.
enum Applied {
    Before,
    Body(Damage),
    /// In bytes per second.
    Rate(f64),
}

fn refusal(kind: FaultKind) -> Response<Body> {
    let error = if kind == FaultKind::SlowDown {
        S3Error::with_message(S3ErrorCode::SlowDown, "Please reduce your request rate.")
    } else {
        S3Error::with_message(
            S3ErrorCode::InternalError,
            "We encountered an internal error. Please try again.",
        )
    };
    error.to_http_response().expect("a plain error")
}

/// Reads a body to its end, so that the client is there to read the answer.
async fn discard(mut body: Shaped) {
    while let Some(Ok(_)) = body.frame().await {}
}
