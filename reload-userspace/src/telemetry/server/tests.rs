//! What clients get, the well-behaved and the others.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
};

use super::*;

/// Longer than anything takes that works.
const DEADLINE: Duration = Duration::from_secs(30);

struct Running {
    address: SocketAddr,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    probes: Probes,
}

fn running(limits: Limits) -> Running {
    let mut server = Server::bind("127.0.0.1:0").unwrap();
    server.limits = limits;
    let (address, metrics, readiness) =
        (server.address(), Arc::new(Metrics::new()), Readiness::default());
    let probes = server.start(Arc::clone(&metrics), readiness.clone()).unwrap();
    Running { address, metrics, readiness, probes }
}

impl Running {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// All that comes for these bytes, until the server closes the connection.
    fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // It may hang up before it has heard all.
        drop(stream.write_all(bytes));
        listen(stream)
    }

    fn get(&self, path: &str) -> (u16, String) {
        let answer = self.say(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        let status = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {answer:?}"));
        let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        (status.parse().unwrap(), body)
    }
}

/// What comes until the other side closes, or resets, the connection.
fn listen(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8_lossy(&answer).into_owned(),
    }
}

#[test]
fn each_path_has_its_answer() {
    #[track_caller]
    fn check(answer: &(u16, String), status: u16, body: &str) {
        assert_eq!(*answer, (status, body.to_owned()));
    }
    let server = running(LIMITS);
    check(&server.get("/"), 200, INDEX);
    check(&server.get("/nothing"), 404, "there is nothing here; see /\n");
    check(&server.get("/metrics/"), 404, "there is nothing here; see /\n");
    check(&server.get("/readyz"), 503, "the agent is starting\n");
    server.readiness.set(vec!["nginx: /a\nok does not exist".to_owned(), "x".to_owned()]);
    check(&server.get("/readyz"), 503, "nginx: /a\\nok does not exist\nx\n");
    server.readiness.set(Vec::new());
    check(&server.get("/readyz?verbose"), 200, "ok\n");
    let (status, metrics) = server.get("/metrics");
    assert_eq!(status, 200);
    assert!(metrics.contains("\nreload_agent_build_info{version="), "{metrics}");
}

#[test]
fn only_get_and_head_are_heeded() {
    let server = running(LIMITS);
    let answer = server.say(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "FETCH"] {
        let answer =
            server.say(format!("{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{answer}");
        assert!(answer.contains("\r\nallow: GET, HEAD\r\n"), "{answer}");
    }
}

#[test]
fn metrics_are_written_as_they_are_asked_for() {
    #[track_caller]
    fn check(server: &Running, accept: &str, content_type: &str, has_end: bool) {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n");
        let answer = server.say(request.as_bytes());
        let field = format!("\r\ncontent-type: {content_type}\r\n");
        assert!(answer.contains(&field), "for {accept}: {answer}");
        assert_eq!(answer.ends_with("# EOF\n"), has_end, "for {accept}: {answer}");
    }
    let server = running(LIMITS);
    let old = "text/plain; version=0.0.4; charset=utf-8";
    let new = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    check(&server, "*/*", old, false);
    check(&server, "text/html", old, false);
    check(&server, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5", new, true);
}

#[test]
fn the_loop_says_whether_it_is_well() {
    let mut server = running(LIMITS);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ask = thread::spawn({
        let asking = Running {
            address: server.address,
            metrics: Arc::clone(&server.metrics),
            readiness: server.readiness.clone(),
            probes: Probes::none(),
        };
        move || asking.get("/healthz")
    });
    runtime.block_on(async { server.probes.next().await.answer(Health::Well) });
    assert_eq!(ask.join().unwrap(), (200, "ok\n".to_owned()));
}

#[test]
fn a_loop_that_has_ended_is_not_well() {
    let server = running(LIMITS);
    let Running { address, metrics, readiness, probes } = server;
    drop(probes);
    let server = Running { address, metrics, readiness, probes: Probes::none() };
    assert_eq!(server.get("/healthz"), (503, "the agent's loop has ended\n".to_owned()));
}

#[test]
fn a_client_that_breaks_the_rules_is_cut_off_and_others_are_answered() {
    let server = running(LIMITS);
    let long = "x".repeat(1 << 20);
    let many = "x: y\r\n".repeat(1000);
    for request in [
        "\r\n\r\n\r\n\r\nnonsense\r\n\r\n".to_owned(),
        "\0\u{1}\u{2}\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{many}\r\n"),
        // A body that is not wanted, however long it is to be.
        format!("POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n{long}"),
        // A second request on the same connection.
        "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
    ] {
        let answer = server.say(request.as_bytes());
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{answer}");
        assert_eq!(server.get("/").0, 200);
    }
}

#[test]
fn a_client_that_is_slow_is_cut_off() {
    let limits = Limits { header: Duration::from_millis(50), ..LIMITS };
    let server = running(limits);
    // One that says nothing, and one that never ends.
    let silent = server.connect();
    let mut endless = server.connect();
    endless.write_all(b"GET / HTTP/1.1\r\nx: ").unwrap();
    assert_eq!(listen(silent), "");
    let answer = listen(endless);
    assert!(!answer.contains("200"), "{answer}");

    let limits = Limits { whole: Duration::from_millis(50), ..LIMITS };
    let server = running(limits);
    let mut endless = server.connect();
    endless.write_all(b"GET / HTTP/1.1\r\nx: ").unwrap();
    assert_eq!(listen(endless), "");
}

#[test]
fn a_client_that_never_reads_is_cut_off() {
    let limits = Limits { connections: 1, whole: Duration::from_millis(200), ..LIMITS };
    let server = running(limits);
    // More than the kernel keeps for a reader.
    for number in 0..5_000 {
        server.metrics.add_rule(&format!("rule-{number}"), super::super::Confirms::Yes);
    }
    let mut deaf = server.connect();
    deaf.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // Its seat is the only one, so somebody else has it when it is gone.
    let deadline = std::time::Instant::now() + DEADLINE;
    while server.say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").is_empty() {
        assert!(std::time::Instant::now() < deadline, "the seat was never given back");
        thread::yield_now();
    }
    drop(deaf);
}

#[test]
fn of_a_thousand_clients_the_last_64_are_served() {
    let limits = Limits { header: DEADLINE, whole: DEADLINE, ..LIMITS };
    let server = running(limits);
    let mut clients: Vec<_> = (0..1000).map(|_| server.connect()).collect();
    // Whoever has been there for the longest is hung up on.
    let last = clients.split_off(1000 - 64);
    for client in clients {
        assert_eq!(listen(client), "");
    }
    // The others are still served.
    for mut client in last {
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        assert!(listen(client).starts_with("HTTP/1.1 200 OK\r\n"));
    }
    assert_eq!(server.get("/").0, 200);
}

#[test]
fn an_address_is_named_with_the_remedy() {
    #[track_caller]
    fn check(address: &str, expected: &str) {
        assert_eq!(Server::bind(address).unwrap_err().to_string(), expected);
    }
    for given in ["", "9533", "localhost:9533", "127.0.0.1", ":", ":99999", "1.2.3.4:5\n"] {
        check(
            given,
            &format!(
                "--listen {given:?} is no address; give one with a port, as in 127.0.0.1:9533, or \
                 :9533 for all addresses"
            ),
        );
    }
    let taken = Server::bind("127.0.0.1:0").unwrap();
    let address = taken.address().to_string();
    check(
        &address,
        &format!(
            "cannot listen on {address}; give --listen an address of this machine and a free port"
        ),
    );
    let everywhere = Server::bind(":0").unwrap().address();
    assert!(everywhere.ip().is_unspecified() && everywhere.port() != 0, "{everywhere}");
}
