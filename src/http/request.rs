//! What a client asks, as far as it matters here: a method and a path.

use httparse::{EMPTY_HEADER, Error, Request};

use super::Status;

/// The longest request in bytes, headers included.
pub const LONGEST_REQUEST: usize = 8 << 10;

/// The most headers of a request.
const MOST_HEADERS: usize = 64;

/// What the bytes of a client come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The request is not whole.
    More,
    /// A page, or its headers alone.
    Page { path: String, head: bool },
    /// Something that is answered by a refusal.
    Wrong(Status),
}

/// Reads the request that `bytes` begin with; what follows it is not looked at.
pub fn read(bytes: &[u8]) -> Asked {
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut request = Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(status) if status.is_partial() && bytes.len() >= LONGEST_REQUEST => Asked::Wrong(Status::TooLarge),
        Ok(status) if status.is_partial() => Asked::More,
        Ok(_) => asked(request.method.unwrap_or_default(), request.path.unwrap_or_default()),
        Err(Error::TooManyHeaders) => Asked::Wrong(Status::TooLarge),
        Err(_) => Asked::Wrong(Status::BadRequest),
    }
}

fn asked(method: &str, target: &str) -> Asked {
    let head = match method {
        "GET" => false,
        "HEAD" => true,
        _ => return Asked::Wrong(Status::MethodNotAllowed),
    };
    // The absolute form, which every server has to take: RFC 9112, section 3.2.2.
    let target = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    let path = target.split(['?', '#']).next().unwrap_or_default();
    match path.starts_with('/') {
        true => Asked::Page { path: path.to_owned(), head },
        false => Asked::Wrong(Status::BadRequest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(path: &str) -> Asked {
        Asked::Page { path: path.to_owned(), head: false }
    }

    #[test]
    fn a_request_is_whole_or_not_or_wrong() {
        let head = Asked::Page { path: "/healthz".to_owned(), head: true };
        for (bytes, right) in [
            ("", Asked::More),
            ("GET /metr", Asked::More),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n", Asked::More),
            ("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", page("/metrics")),
            ("GET /metrics HTTP/1.0\n\n", page("/metrics")),
            ("GET /metrics?name[]=a#b HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n", page("/metrics")),
            ("GET http://127.0.0.1:9130/readyz HTTP/1.1\r\n\r\n", page("/readyz")),
            ("GET http://127.0.0.1:9130 HTTP/1.1\r\n\r\n", page("/")),
            ("HEAD /healthz HTTP/1.1\r\n\r\n", head),
            ("POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", Asked::Wrong(Status::MethodNotAllowed)),
            ("OPTIONS * HTTP/1.1\r\n\r\n", Asked::Wrong(Status::MethodNotAllowed)),
            ("GET * HTTP/1.1\r\n\r\n", Asked::Wrong(Status::BadRequest)),
            ("GET / HTTP/2.0\r\n\r\n", Asked::Wrong(Status::BadRequest)),
            ("\u{16}\u{3}\u{1}\u{2}", Asked::Wrong(Status::BadRequest)),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", Asked::Wrong(Status::BadRequest)),
        ] {
            assert_eq!(read(bytes.as_bytes()), right, "{bytes:?}");
        }
    }

    #[test]
    fn a_request_has_bounds() {
        let with = |header: String| read(format!("GET / HTTP/1.1\r\n{header}\r\n").as_bytes());
        assert_eq!(with("a: b\r\n".repeat(MOST_HEADERS)), page("/"));
        assert_eq!(with("a: b\r\n".repeat(MOST_HEADERS + 1)), Asked::Wrong(Status::TooLarge));
        let long = |n: usize| format!("GET /{} HTTP/1.1\r\n", "x".repeat(n)).into_bytes();
        assert_eq!(read(&long(LONGEST_REQUEST - 100)), Asked::More);
        assert_eq!(read(&long(LONGEST_REQUEST)), Asked::Wrong(Status::TooLarge));
    }
}
