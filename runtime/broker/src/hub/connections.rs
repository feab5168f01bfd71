//! Connections of a kernel's hub: so many at once and none that only waits. Whoever runs on this machine reaches its port, and
//! this process is outside of what bounds a kernel's memory.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;

/// How many there may be, and how long one may keep the server waiting.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    /// At once; who comes later waits for a place. Clients that fetch in parts open 8 to 16.
    pub(super) connections: usize,
    /// For the head of a request, also on a connection that was used before.
    pub(super) asking: Duration,
    /// For taking what is sent.
    pub(super) taking: Duration,
}

impl Bounds {
    pub(super) const USUAL: Self = Self {
        connections: 64,
        asking: Duration::from_secs(30),
        taking: Duration::from_secs(60),
    };
}

/// How long is waited when no connection can be taken, as where there are no more file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, HTTP/1.1, which clients speak where there is no TLS.
pub(super) async fn serve(listener: TcpListener, routes: Router, bounds: Bounds, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, (stream, peer)) = tokio::select! {
            (place, accepted) = accepted => match accepted {
                Ok(accepted) => (place, accepted),
                Err(error) => {
                    tracing::debug!(%error, "the kernel's hub takes no connection");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            () = stop.cancelled() => return,
        };
        // The Hub takes tokens over plain HTTP from this machine alone.
        let routes = routes.clone().layer(Extension(ConnectInfo(peer)));
        let stop = stop.clone();
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                () = answer(stream, routes, bounds) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn answer(stream: TcpStream, routes: Router, bounds: Bounds) {
    // Small answers must not wait for one another.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(bounds.taking));
    let service = TowerToHyperService::new(routes);
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.asking)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the kernel's hub ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(50);
    const ASK: &[u8] = b"GET / HTTP/1.1\r\nhost: hub\r\n\r\n";

    async fn server(bounds: Bounds, size: usize) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/", get(move || async move { vec![7; size] }));
        tokio::spawn(serve(listener, routes, bounds, CancellationToken::new()));
        address
    }

    /// Reads until the server closes the connection, in whichever way.
    async fn rest(mut stream: TcpStream) -> usize {
        let (mut all, mut buffer) = (0, vec![0; 1 << 16]);
        while let Ok(read @ 1..) = stream.read(&mut buffer).await {
            all += read;
        }
        all
    }

    #[tokio::test]
    async fn who_asks_nothing_or_not_again_is_left() {
        let bounds = Bounds {
            asking: SHORT,
            ..Bounds::USUAL
        };
        let address = server(bounds, 10).await;
        assert_eq!(rest(TcpStream::connect(address).await.unwrap()).await, 0);
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(ASK).await.unwrap();
        assert!(rest(stream).await > 10, "the answer, then the end");
    }

    #[tokio::test]
    async fn who_does_not_take_what_is_sent_gives_its_place_to_the_next() {
        let bounds = Bounds {
            connections: 1,
            asking: LONG,
            taking: SHORT,
        };
        const LARGE: usize = 64 << 20;
        let address = server(bounds, LARGE).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first.write_all(ASK).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second
            .write_all(b"GET / HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\r\n")
            .await
            .unwrap();
        assert!(rest(second).await > LARGE);
        assert!(rest(first).await < LARGE, "cut where it stopped reading");
    }
}
