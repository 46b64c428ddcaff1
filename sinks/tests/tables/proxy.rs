//! A TCP proxy that loses one answer: it lets a COMMIT through, or not, and then hangs up.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What becomes of the first COMMIT; the connections after it are left alone.
#[derive(Clone, Copy, PartialEq)]
pub enum Commit {
    /// The server gets it, its answer is lost.
    AnswerLost,
    /// The server never gets it.
    Lost,
}

/// Starts a proxy in front of a server; tells its port.
pub async fn start(server: String, commit: Commit) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let armed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(carry(client, upstream, commit, armed.clone()));
        }
    });
    port
}

async fn carry(
    mut client: TcpStream,
    mut server: TcpStream,
    commit: Commit,
    armed: std::sync::Arc<std::sync::atomic::AtomicBool>,
) {
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(count @ 1..) = read else { return };
                let sent = &from_client[..count];
                // The packet of the statement: its length, its number, "query", its text.
                if sent.ends_with(b"\x03COMMIT") && armed.swap(false, std::sync::atomic::Ordering::SeqCst) {
                    if commit == Commit::AnswerLost {
                        server.write_all(sent).await.unwrap();
                        let answered = server.read(&mut from_server).await.unwrap();
                        assert!(answered > 0, "the server did not answer");
                    }
                    return;
                }
                if server.write_all(sent).await.is_err() { return }
            }
            read = server.read(&mut from_server) => {
                let Ok(count @ 1..) = read else { return };
                if client.write_all(&from_server[..count]).await.is_err() { return }
            }
        }
    }
}

/// Starts a proxy whose server falls silent on a connection once it has sent so many bytes; tells its port.
pub async fn start_stalling(server: String, bytes: u64) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (from_server, mut to_server) = upstream.into_split();
                let mut some = from_server.take(bytes);
                let asked = tokio::io::copy(&mut from_client, &mut to_server);
                // What it has sent by then is not followed by an end.
                let answered = async {
                    tokio::io::copy(&mut some, &mut to_client).await.unwrap();
                    std::future::pending::<()>().await;
                };
                tokio::join!(asked, answered).0.unwrap();
            });
        }
    });
    port
}
