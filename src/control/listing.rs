//! `drainctl connections` for people: an aligned table, a connection a line.
//!
//! The words are not an interface; programs read the JSON.

use std::time::Duration;

use super::connections::{Listing, Row};
use super::paint::{Paint, Tone, printable};
use super::table::{self, Cell, Column, Shape};
use super::words::{bytes, counted, time};

const fn column(title: &'static str, is_number: bool, rank: u8) -> Column {
    Column { title, is_number, rank }
}

const COLUMNS: [Column; 10] = [
    column("ID", true, 1),
    column("PROXY", false, 8),
    column("CLIENT", false, 0),
    column("UPSTREAM", false, 5),
    column("PROTOCOL", false, 9),
    column("STATE", false, 2),
    column("AGE", true, 3),
    column("IDLE", true, 4),
    column("TO UPSTREAM", true, 7),
    column("TO CLIENT", true, 6),
];

/// The table, without the last line's end, in lines of at most `width` characters: what has no room in a row is
/// told beneath it.
pub fn render(listing: &Listing, paint: Paint, width: Option<usize>) -> String {
    if listing.connections.is_empty() {
        let none = match (listing.total, listing.matching) {
            (0, _) => "No connection is open.".to_string(),
            (n, 0) => format!("None of {} fits.", counted(n, "connection")),
            (_, 1) => "1 connection fits, none is shown.".to_string(),
            (_, n) => format!("{} fit, none is shown.", counted(n, "connection")),
        };
        return none;
    }
    let width = width.unwrap_or(usize::MAX);
    let rows: Vec<_> = listing.connections.iter().map(cells).collect();
    let shape = Shape::of(&COLUMNS, &rows, width);
    let mut lines = vec![paint.tone(Tone::Strong, shape.head(&COLUMNS).trim_end())];
    for row in &rows {
        lines.push(table::print(shape.line(&COLUMNS, row), paint));
        lines.extend(shape.beneath(&COLUMNS, row, width));
    }
    lines.join("\n")
}

/// What the answer does not show, and why; a line each.
pub fn notes(listing: &Listing) -> Vec<String> {
    let mut notes = Vec::new();
    if listing.left_out() > 0 {
        let (left_out, matching) = (listing.left_out(), counted(listing.matching, "connection"));
        notes.push(format!("{left_out} of {matching} that fit are left out"));
    }
    if listing.silent_workers > 0 {
        notes.push(format!(
            "{} did not answer in time: connections are missing",
            counted(listing.silent_workers, "worker")
        ));
    }
    notes
}

fn cells(row: &Row) -> Vec<Cell> {
    let cells = [
        row.id.to_string(),
        printable(&row.proxy).into_owned(),
        printable(&row.client).into_owned(),
        printable(row.upstream.as_deref().unwrap_or("-")).into_owned(),
        printable(&row.protocol).into_owned(),
        row.state.word().to_string(),
        time(Duration::from_millis(row.age_ms)),
        time(Duration::from_millis(row.idle_ms)),
        bytes(row.bytes.to_upstream),
        bytes(row.bytes.to_client),
    ];
    cells.map(Cell::from).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::connections::Doing;
    use super::super::status::Bytes;
    use super::*;

    fn row(id: u64, client: &str, upstream: Option<&str>) -> Row {
        Row {
            id,
            proxy: "web".to_string(),
            protocol: "tcp".to_string(),
            client: client.to_string(),
            upstream: upstream.map(str::to_owned),
            state: Doing::Quiet,
            age_ms: 61_500,
            idle_ms: 900,
            bytes: Bytes { to_upstream: 17, to_client: 1536 },
            parked: true,
        }
    }

    #[test]
    fn a_table_is_aligned() {
        let connections =
            vec![row(9, "192.0.2.7:4711", Some("unix:/run/ä\x1b.sock")), row(12345, "unix:pid=1", None)];
        let listing = Listing { total: 5, matching: 4, silent_workers: 1, connections };
        let rendered = render(&listing, Paint(false), None);
        let column = |line: &str, word: &str| line.find(word).map(|at| line[..at].chars().count());
        let lines: Vec<_> = rendered.lines().collect();
        for word in ["tcp", "quiet", "1m 1s", "17 B", "1.5 KiB"] {
            assert_eq!(column(lines[1], word), column(lines[2], word), "{rendered}");
        }
        assert!(
            lines[1].starts_with("    9  web    192.0.2.7:4711  unix:/run/ä\\u{1b}.sock  tcp"),
            "{rendered}"
        );
        assert!(lines[2].starts_with("12345  web    unix:pid=1      -  "), "{rendered}");
        assert_eq!(
            lines[0].trim_start(),
            "ID  PROXY  CLIENT          UPSTREAM                PROTOCOL  STATE    AGE  IDLE  TO UPSTREAM  TO CLIENT"
        );
        assert!(render(&listing, Paint(true), None).starts_with("\x1b[1m"));
        assert_eq!(
            notes(&listing),
            [
                "2 of 4 connections that fit are left out",
                "1 worker did not answer in time: connections are missing"
            ]
        );
    }

    #[test]
    fn a_narrow_table_tells_the_rest_beneath() {
        let long = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        let listing = |upstream: &str| Listing {
            total: 1,
            matching: 1,
            silent_workers: 0,
            connections: vec![row(9, "192.0.2.7:4711", Some(upstream))],
        };
        let rendered = |upstream, width| render(&listing(upstream), Paint(false), Some(width));
        assert_eq!(
            rendered("127.0.0.1:8000", 80),
            "ID  CLIENT          UPSTREAM        STATE    AGE  IDLE  TO UPSTREAM  TO CLIENT\n\
             \x209  192.0.2.7:4711  127.0.0.1:8000  quiet  1m 1s    0s         17 B    1.5 KiB\n  \
             proxy web, protocol tcp"
        );
        assert_eq!(
            rendered(long, 80),
            "ID  CLIENT          STATE    AGE  IDLE\n 9  192.0.2.7:4711  quiet  1m 1s    0s\n  \
             proxy web, upstream [2001:db8:1111:2222:3333:4444:5555:6666]:65535,\n  \
             protocol tcp, to upstream 17 B, to client 1.5 KiB"
        );
        for width in 30..200 {
            let text = rendered(long, width);
            for word in ["web", "tcp", "1m 1s", "17 B", "1.5 KiB", "quiet", "192.0.2.7:4711"] {
                assert!(text.contains(word), "{word} at {width}: {text}");
            }
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}: {text}");
        }
    }

    #[test]
    fn nothing_to_show_is_said() {
        let listing = |total, matching| Listing { total, matching, ..Listing::default() };
        assert_eq!(render(&listing(0, 0), Paint(true), None), "No connection is open.");
        assert_eq!(render(&listing(1, 0), Paint(true), None), "None of 1 connection fits.");
        assert_eq!(render(&listing(9, 9), Paint(true), None), "9 connections fit, none is shown.");
        assert!(notes(&listing(9, 0)).is_empty());
    }
}
