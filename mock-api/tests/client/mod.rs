//! A client that knows just enough HTTP to see every fault for what it is.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use mock_api::{EMAIL, PASSWORD, Server};
use serde_json::{Value, json};

/// Longer than anything here takes, so that a fault in the server is a failure and no hang.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// One kept-alive connection with one token.
pub struct Client {
    pub stream: TcpStream,
    pub token: String,
    pub id: &'static str,
}

impl Client {
    pub fn new(server: &Server) -> Self {
        let mut client = Self::stranger(server);
        client.renew();
        client
    }

    pub fn stranger(server: &Server) -> Self {
        Self { stream: connect(server), token: String::new(), id: "test" }
    }

    pub fn renew(&mut self) -> Reply {
        let reply = self.token(EMAIL, PASSWORD).unwrap();
        self.token = reply.json()["access_token"].as_str().unwrap().to_owned();
        reply
    }

    pub fn token(&mut self, email: &str, password: &str) -> io::Result<Reply> {
        // Base64 by hand would be a second server; the credentials of the mock are known.
        let encoded = match (email, password) {
            (EMAIL, PASSWORD) => "YWRzQGV4YW1wbGUuY29tOmNvcnJlY3QtaG9yc2UtYmF0dGVyeS1zdGFwbGU=",
            _ => "bm9ib2R5Om5vdGhpbmc=",
        };
        self.send("POST", "/auth/token", &format!("Authorization: Basic {encoded}\r\n"), "")?;
        self.receive()
    }

    pub fn list(&mut self, page: u64, limit: u64) -> io::Result<Reply> {
        self.ask("GET", &format!("/api/campaigns?page={page}&limit={limit}"), "")
    }

    pub fn sync(&mut self, id: &str) -> io::Result<Reply> {
        let segment: String = id.bytes().map(|byte| format!("%{byte:02X}")).collect();
        self.ask("POST", &format!("/api/campaigns/{segment}/sync"), &json!({ "campaign_id": id }).to_string())
    }

    pub fn ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<Reply> {
        let headers = format!("Authorization: Bearer {}\r\nx-client-id: {}\r\n", self.token, self.id);
        self.send(method, path, &headers, body)?;
        self.receive()
    }

    pub fn send(&mut self, method: &str, path: &str, headers: &str, body: &str) -> io::Result<()> {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        self.stream.write_all(request.as_bytes())
    }

    /// The whole reply; an error when it is cut short.
    pub fn receive(&mut self) -> io::Result<Reply> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply { status, head, body: Vec::new() };
        let length: usize = reply.header("Content-Length").unwrap().parse().unwrap();
        reply.body.resize(length, 0);
        self.stream.read_exact(&mut reply.body)?;
        Ok(reply)
    }
}

pub fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.url().strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}
