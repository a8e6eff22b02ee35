//! A loopback HTTP server for tests: it serves fixed files the way a model hub does.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub struct TestServer {
    url: String,
    requests: Arc<AtomicUsize>,
}

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

impl TestServer {
    pub fn start(files: &[(&str, &[u8])]) -> Self {
        let files: HashMap<String, Vec<u8>> = (files.iter())
            .map(|(path, contents)| (path.to_string(), contents.to_vec()))
            .collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                // A client that goes away early is its own affair.
                let _ = answer(stream, &files);
            }
        });
        Self { url, requests }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn answer(mut stream: TcpStream, files: &HashMap<String, Vec<u8>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut range = None;
    for line in lines {
        let line = line?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        range = range.or(line.strip_prefix("range: bytes=").map(str::to_string));
    }
    let target = request.split(' ').nth(1).unwrap_or_default();
    let Some(contents) = files.get(target.split('?').next().unwrap_or_default()) else {
        return stream.write_all(
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    };
    let total = contents.len();
    let (status, body) = match range.as_deref().and_then(|range| range.split_once('-')) {
        None => ("200 OK", &contents[..]),
        Some((from, to)) => {
            let from = from.parse().unwrap_or(0).min(total);
            let to = to.parse().map_or(total, |to: usize| (to + 1).min(total));
            ("206 Partial Content", &contents[from..to.max(from)])
        }
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes 0-0/{total}\r\n\
         ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
        body.len(),
        super::Sha256::of(contents)
    )?;
    stream.write_all(body)
}
