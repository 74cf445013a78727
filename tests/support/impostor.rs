//! A platform of a test's own making, for answers that no mock of a platform would give.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What it says: the status, and the body.
pub type Said = (u16, String);

/// Listens at a free port; gives the address as a URL of this scheme as well.
pub fn listen(scheme: &str) -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("{scheme}://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// A server at 127.0.0.1 that answers each request as it was told to, and keeps what it heard. It listens for as long as the
/// test's process lives.
pub struct Impostor {
    pub url: String,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Impostor {
    /// One that answers by `answer`, which is given the first line of the request.
    pub fn new(answer: impl Fn(&str) -> Said + Send + Sync + 'static) -> Self {
        Self::closing("connection: close\r\n", answer)
    }

    /// One that also says lines of its header, each with its end: the status, these, and the body.
    pub fn with_header(answer: impl Fn(&str) -> (u16, String, String) + Send + Sync + 'static) -> Self {
        Self::answering("connection: close\r\n", answer)
    }

    /// As [`Self::new`], with this in its header of the fact that it closes the connection behind each answer.
    fn closing(said: &'static str, answer: impl Fn(&str) -> Said + Send + Sync + 'static) -> Self {
        Self::answering(said, move |line| {
            let (status, body) = answer(line);
            (status, String::new(), body)
        })
    }

    fn answering(
        said: &'static str,
        answer: impl Fn(&str) -> (u16, String, String) + Send + Sync + 'static,
    ) -> Self {
        let (listener, url) = listen("http");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (answer, ears) = (Arc::new(answer), heard.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, ears) = (answer.clone(), ears.clone());
                std::thread::spawn(move || serve(stream, said, &*answer, &ears));
            }
        });
        Self { url, heard }
    }

    /// One that gives tokens, lists `records` on one page, and syncs whatever it is asked for.
    pub fn listing(records: &[String]) -> Self {
        Self::new(lists(records))
    }

    /// One that gives tokens, lists by `page`, which is given the page's number, and syncs whatever it is asked for.
    pub fn paging(page: impl Fn(u32) -> Said + Send + Sync + 'static) -> Self {
        Self::new(move |line| match line.split_once("page=") {
            _ if line.starts_with("POST /auth/token ") => token(),
            Some((_, rest)) => page(rest.split(['&', ' ']).next().unwrap().parse().unwrap()),
            None => (200, r#"{"success": true}"#.into()),
        })
    }

    /// The same, and it closes the connection behind each answer without a word of that.
    pub fn listing_rudely(records: &[String]) -> Self {
        Self::closing("", lists(records))
    }

    /// Each request as it came, head and body.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

fn lists(records: &[String]) -> impl Fn(&str) -> Said + Send + Sync + 'static {
    let page = format!(r#"{{"data": [{}], "pagination": {{"has_more": false}}}}"#, records.join(","));
    move |line| match line {
        _ if line.starts_with("POST /auth/token ") => token(),
        _ if line.starts_with("POST ") => (200, r#"{"success": true}"#.into()),
        _ => (200, page.clone()),
    }
}

/// A good token.
pub fn token() -> Said {
    (200, r#"{"access_token": "a-token-for-the-test", "expires_in": 3600}"#.into())
}

/// Page `page` of campaigns that are numbered from 1, ten a page.
pub fn ten(page: u32, total: u32, has_more: bool) -> Said {
    let records: Vec<String> =
        (page * 10 - 9..=page * 10).map(|n| record(&format!("campaign_{n}"), "n", "")).collect();
    let pagination = format!(r#"{{"page": {page}, "limit": 10, "total": {total}, "has_more": {has_more}}}"#);
    (200, format!(r#"{{"data": [{}], "pagination": {pagination}}}"#, records.join(",")))
}

/// A campaign with more fields behind its own.
pub fn record(id: &str, name: &str, more: &str) -> String {
    let (id, name) = (serde_json::to_string(id).unwrap(), serde_json::to_string(name).unwrap());
    format!(
        r#"{{"id":{id},"name":{name},"status":"active","budget":1,"impressions":1,"clicks":1,"conversions":1,"created_at":"2026-01-04T03:09:09Z"{more}}}"#
    )
}

fn serve(
    mut stream: TcpStream,
    closing: &str,
    answer: &(impl Fn(&str) -> (u16, String, String) + ?Sized),
    heard: &Mutex<Vec<String>>,
) {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    while !whole(&request) {
        match stream.read(&mut chunk) {
            Ok(length @ 1..) => request.extend_from_slice(&chunk[..length]),
            _ => return,
        }
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let (status, header, body) = answer(request.lines().next().unwrap_or_default());
    heard.lock().unwrap().push(request);
    let length = body.len();
    let head = format!("HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\n{header}{closing}\r\n");
    let _gone = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
}

/// Whether the head, and as much body as it tells of, is there.
fn whole(request: &[u8]) -> bool {
    let Some(end) = request.windows(4).position(|piece| piece == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    request.len() >= end + 4 + length.unwrap_or(0)
}
