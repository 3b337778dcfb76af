//! What is sent, and what is made of the answers.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use super::*;

/// Longer than any test takes.
const LONG: Duration = Duration::from_mins(1);

/// A server that gives one answer, and tells what it was asked.
async fn server(answer: Vec<u8>) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).await.unwrap_or(0) == 0 {
                break;
            }
            request.extend(byte);
        }
        // A client that has read enough hangs up.
        drop(stream.write_all(&answer).await);
        String::from_utf8_lossy(&request).into_owned()
    });
    (address, asked)
}

async fn post(url: &str, limit: Duration) -> Result<(), String> {
    let done = send(url.parse().unwrap(), limit).await;
    done.map_err(|error| format!("{:#}", anyhow::Error::new(error)))
}

#[test]
fn the_future_can_be_given_to_a_task() {
    fn check(_: impl Future<Output = Result<(), PostError>> + Send + 'static) {}
    check(send("http://localhost".parse().unwrap(), LONG));
}

#[tokio::test]
async fn the_request_is_a_post_of_nothing() {
    let (address, asked) = server(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()).await;
    post(&format!("http://u:p%40@{address}/-/reload?a=b#c"), LONG).await.unwrap();
    assert_eq!(
        asked.await.unwrap(),
        format!(
            "POST /-/reload?a=b HTTP/1.1\r\nhost: {address}\r\nuser-agent: reload-agent/{}\r\n\
             accept: */*\r\ncontent-length: 0\r\nconnection: close\r\n\
             authorization: Basic dTpwQA==\r\n\r\n",
            env!("CARGO_PKG_VERSION")
        )
    );
}

#[tokio::test]
async fn localhost_is_this_machine() {
    let (address, asked) = server(b"HTTP/1.0 200 OK\r\n\r\n".to_vec()).await;
    let port = address.rsplit(':').next().unwrap();
    post(&format!("http://LOCALHOST.:{port}/"), LONG).await.unwrap();
    assert!(asked.await.unwrap().starts_with("POST / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn an_answer_that_is_no_success_is_told_in_one_line() {
    async fn check(answer: &str, expected: &str) {
        let (address, _asked) = server(answer.as_bytes().to_vec()).await;
        let error = post(&format!("http://u:secret@{address}/x?t=secret"), LONG).await.unwrap_err();
        assert_eq!(error, format!("http://u:***@{address}/x?t=*** {expected}"), "for {answer:?}");
    }
    let long = "é".repeat(500);
    check("HTTP/1.1 500 Oops\r\n\r\n", "answered 500 Internal Server Error").await;
    check(
        "HTTP/1.1 400 X\r\nContent-Length: 24\r\n\r\n\r\n \x1b[2Jbad config\ntail..",
        "answered 400 Bad Request: \\u{1b}[2Jbad config",
    )
    .await;
    check(
        &format!("HTTP/1.1 503 X\r\n\r\n{long}"),
        &format!("answered 503 Service Unavailable: {}…", "é".repeat(200)),
    )
    .await;
    check("HTTP/1.1 304 X\r\n\r\n", "answered 304 Not Modified").await;
    let remedy = "a redirect is not followed: give --post the URL that it leads to";
    for (location, shown) in
        [("https://a:b@else/where?t=s", "https://a:***@else/where?t=***"), ("/else?t=s", "/else")]
    {
        check(
            &format!("HTTP/1.1 301 X\r\nLocation: {location}\r\n\r\n"),
            &format!("answered 301 Moved Permanently and leads to {shown}; {remedy}"),
        )
        .await;
    }
}

#[tokio::test]
async fn no_more_than_64_kib_of_an_answer_are_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let said = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 500 X\r\n\r\nfirst\n").await.unwrap();
        // More than the kernel keeps for a reader.
        stream.write_all(&vec![b'x'; 64 * 1024 * 1024]).await
    });
    let error = post(&format!("http://{address}/"), LONG).await.unwrap_err();
    assert_eq!(error, format!("http://{address}/ answered 500 Internal Server Error: first"));
    said.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_server_that_speaks_no_http_is_told_of() {
    async fn check(answer: &str, cause: &str) {
        let (address, _asked) = server(answer.as_bytes().to_vec()).await;
        let error = post(&format!("http://{address}/"), LONG).await.unwrap_err();
        assert_eq!(error, format!("http://{address}/ gave no answer in HTTP: {cause}"));
    }
    check("SSH-2.0-OpenSSH_9.2\r\n", "invalid HTTP version parsed").await;
    check("", "connection closed before message completed").await;
    let endless = "x".repeat(1 << 20);
    check(&format!("HTTP/1.1 200 X\r\nx: {endless}"), "message head is too large").await;
}

#[tokio::test]
async fn a_server_that_says_nothing_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let error = post(&format!("http://{address}/"), Duration::from_millis(20)).await.unwrap_err();
    assert_eq!(error, format!("no answer from http://{address}/ within 20ms"));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_of() {
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = post(&format!("http://{address}/"), LONG).await.unwrap_err();
    assert_eq!(
        error,
        format!(
            "cannot connect to http://{address}/; see that the server runs and listens there: \
             Connection refused (os error 111)"
        )
    );
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_told_of() {
    // No host can be called so: a label has at most 63 bytes, and no server is asked for it.
    let host = "x".repeat(64);
    let error = send(format!("http://{host}/").parse().unwrap(), LONG).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot find an address for the host of http://{host}/; look for a typing error in \
             --post, and at /etc/resolv.conf"
        )
    );
}

#[tokio::test]
async fn whoever_speaks_no_tls_is_told_nothing_in_the_clear() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = vec![0; 16 * 1024];
        let length = stream.read(&mut heard).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        heard.truncate(length);
        drop(stream.read_to_end(&mut heard).await);
        heard
    });
    let endpoint = format!("https://u:secret@{address}/x").parse().unwrap();
    match send(endpoint, LONG).await.unwrap_err() {
        PostError::Tls { .. } => {
            let heard = String::from_utf8_lossy(&asked.await.unwrap()).into_owned();
            assert!(!heard.contains("POST") && !heard.contains("Basic"), "{heard:?}");
        }
        // Where the machine knows no authority, nobody is even connected to.
        PostError::Authorities { .. } => assert!(!asked.is_finished()),
        error => panic!("{error}"),
    }
}
