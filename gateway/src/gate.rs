//! The listener, and how much a connection may send before it proved who it is.
//!
//! axum fixes the size of a WebSocket's messages at the upgrade, before an agent has said who it is, and an agent's
//! messages are large. So the limit for the time before that is one on the bytes that its socket reads. Set by
//! `host::agents` only: other WebSockets are opened by a token, and bodies have axum's limit.

use std::io::{Error, IoSlice, Result};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use alephlab_registry::Secured;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use crate::door::Entered;

/// Stands for no limit.
const UNLIMITED: usize = usize::MAX;

/// How many bytes a connection may still send.
#[derive(Debug, Clone)]
pub(crate) struct Allowance(Arc<AtomicUsize>);

impl Allowance {
    /// From now on so many bytes, then its reads fail. What the server had read ahead does not count.
    pub(crate) fn limit(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// From now on as much as it likes.
    pub(crate) fn lift(&self) {
        self.0.store(UNLIMITED, Ordering::Relaxed);
    }

    fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn spend(&self, bytes: usize) {
        // Only a limit that still stands is lowered: it may have been lifted during the read.
        let lower = |left| (left != UNLIMITED).then(|| usize::saturating_sub(left, bytes));
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, lower);
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) allowance: Allowance,
}

/// The gateway's listener: the plain one for clients, or the one behind TLS for rented hosts.
pub(crate) struct Gate {
    enters: Enters,
    address: SocketAddr,
}

enum Enters {
    Plain(TcpListener),
    Tls(mpsc::Receiver<Entered>),
}

impl Gate {
    pub(crate) fn new(listener: TcpListener) -> Result<Self> {
        Ok(Self {
            address: listener.local_addr()?,
            enters: Enters::Plain(listener),
        })
    }

    /// Takes connections that have come through the door for hosts, which is at `address`.
    pub(crate) fn behind(entered: mpsc::Receiver<Entered>, address: SocketAddr) -> Self {
        Self {
            address,
            enters: Enters::Tls(entered),
        }
    }
}

impl Listener for Gate {
    type Io = Socket;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Socket, SocketAddr) {
        let (stream, address) = match &mut self.enters {
            Enters::Plain(listener) => {
                let (tcp, address) = Listener::accept(listener).await;
                // Without it a message waits some 40 ms for the peer's acknowledgement.
                if let Err(error) = tcp.set_nodelay(true) {
                    tracing::debug!(%error, "a socket keeps its delay");
                }
                (Either::Left(tcp), address)
            }
            Enters::Tls(entered) => match entered.recv().await {
                Some((tls, address)) => (Either::Right(Box::new(tls)), address),
                // The door is closed: nobody comes any more.
                None => std::future::pending().await,
            },
        };
        let allowance = Allowance(Arc::new(AtomicUsize::new(UNLIMITED)));
        (Socket { stream, allowance }, address)
    }

    fn local_addr(&self) -> Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Connected<IncomingStream<'_, Gate>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Gate>) -> Self {
        Self {
            address: *stream.remote_addr(),
            allowance: stream.io().allowance.clone(),
        }
    }
}

/// How this machine reaches a gateway that listens there.
pub fn local_url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        every if every.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

/// Takes the peer's address from the front that the request came through, where the operator has named it: its last word in
/// `X-Forwarded-For` is who called it; what stands before that may be anybody's.
pub(crate) async fn behind_fronts(
    State(fronts): State<Arc<[IpAddr]>>,
    mut request: Request,
    next: Next,
) -> Response {
    let told = request.headers().get_all("x-forwarded-for").iter().next_back();
    let told = told.and_then(|told| told.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
    if let Some(ConnectInfo(peer)) = request.extensions_mut().get_mut::<ConnectInfo<Peer>>()
        && fronts.contains(&peer.address.ip().to_canonical())
        && let Some(told) = told
    {
        peer.address.set_ip(told);
        // What came to a front over plain HTTP is as open as if it had come here.
        let scheme = request.headers().get("x-forwarded-proto");
        if scheme.is_some_and(|scheme| scheme.as_bytes().eq_ignore_ascii_case(b"https")) {
            request.extensions_mut().insert(Secured);
        }
    }
    next.run(request).await
}

/// Gives routes the peer's address as axum's own listener would: the registry's ask for that.
pub(crate) async fn with_address(mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<Peer>>();
    if let Some(address) = peer.map(|ConnectInfo(peer)| peer.address) {
        request.extensions_mut().insert(ConnectInfo(address));
    }
    next.run(request).await
}

/// One accepted connection.
pub(crate) struct Socket {
    stream: Either<TcpStream, Box<TlsStream<TcpStream>>>,
    allowance: Allowance,
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let this = self.get_mut();
        let left = this.allowance.left();
        if left == UNLIMITED {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        if left == 0 {
            let reason = "more was sent than is taken before the sender is known";
            return Poll::Ready(Err(Error::other(reason)));
        }
        let most = left.min(buffer.remaining());
        let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
        ready!(Pin::new(&mut this.stream).poll_read(context, &mut part))?;
        let read = part.filled().len();
        buffer.advance(read);
        this.allowance.spend(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn connection() -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = Gate::new(listener).unwrap().accept().await;
        (dialled, socket)
    }

    #[tokio::test]
    async fn reads_no_more_than_is_allowed() {
        let (mut peer, mut socket) = connection().await;
        socket.allowance.limit(10);
        peer.write_all(&[7; 100]).await.unwrap();
        let mut read = Vec::new();
        assert!(socket.read_to_end(&mut read).await.is_err());
        assert_eq!(read, [7; 10]);
    }

    #[tokio::test]
    async fn reads_all_once_the_limit_is_lifted() {
        let (mut peer, mut socket) = connection().await;
        socket.allowance.limit(10);
        peer.write_all(&[7; 100]).await.unwrap();
        assert_eq!(socket.read_u8().await.unwrap(), 7);
        socket.allowance.lift();
        drop(peer);
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [7; 99]);
    }

    #[test]
    fn a_gateway_that_listens_everywhere_is_reached_here() {
        for (listens, url) in [
            ("127.0.0.1:80", "http://127.0.0.1:80"),
            ("0.0.0.0:80", "http://127.0.0.1:80"),
            ("[::]:80", "http://127.0.0.1:80"),
            ("10.0.0.7:80", "http://10.0.0.7:80"),
        ] {
            assert_eq!(local_url(listens.parse().unwrap()), url);
        }
    }

    #[tokio::test]
    async fn a_front_that_is_named_says_who_called_and_nobody_else_does() {
        let callers = async |fronts: &[&str], told: Option<&'static str>| {
            let fronts: Arc<[IpAddr]> = fronts.iter().map(|front| front.parse().unwrap()).collect();
            let router = axum::Router::new()
                .fallback(async |ConnectInfo(peer): ConnectInfo<Peer>| peer.address.ip().to_string())
                .layer(axum::middleware::from_fn_with_state(fronts, behind_fronts));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let gate = Gate::new(listener).unwrap();
            let service = router.into_make_service_with_connect_info::<Peer>();
            tokio::spawn(async move { axum::serve(gate, service).await });
            let request = reqwest::Client::new().get(url);
            let request = match told {
                Some(told) => request.header("x-forwarded-for", told),
                None => request,
            };
            request.send().await.unwrap().text().await.unwrap()
        };
        let here: &[&str] = &["127.0.0.1"];
        assert_eq!(callers(here, Some("203.0.113.9")).await, "203.0.113.9");
        // The front adds the last; the caller may have written what is before it.
        assert_eq!(callers(here, Some("192.0.2.1, 203.0.113.9")).await, "203.0.113.9");
        for told in [None, Some(""), Some("unknown")] {
            assert_eq!(callers(here, told).await, "127.0.0.1");
        }
        assert_eq!(callers(&[], Some("203.0.113.9")).await, "127.0.0.1");
        assert_eq!(callers(&["192.0.2.7"], Some("203.0.113.9")).await, "127.0.0.1");
    }
}
