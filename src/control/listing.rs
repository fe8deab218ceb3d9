//! `drainctl connections` for people: an aligned table, a connection a line.
//!
//! The words are not an interface; programs read the JSON.

use std::time::Duration;

use super::connections::{Listing, Row};
use super::paint::{Paint, Tone, printable};
use super::screen::{age, bytes, counted};

const HEAD: [&str; 10] =
    ["ID", "PROXY", "CLIENT", "UPSTREAM", "PROTOCOL", "STATE", "AGE", "IDLE", "TO UPSTREAM", "TO CLIENT"];

/// Numbers stand to the right.
const IS_NUMBER: [bool; 10] = [true, false, false, false, false, false, true, true, true, true];

/// The table, without the last line's end.
pub fn render(listing: &Listing, paint: Paint) -> String {
    if listing.connections.is_empty() {
        let none = match (listing.total, listing.matching) {
            (0, _) => "No connection is open.".to_string(),
            (n, 0) => format!("None of {} fits.", counted(n, "connection")),
            (_, n) => format!("{} fit, none is shown.", counted(n, "connection")),
        };
        return none;
    }
    let rows: Vec<_> = listing.connections.iter().map(cells).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([HEAD[column].len()]).max().unwrap_or_default()
    };
    let widths: [usize; 10] = std::array::from_fn(width);
    let head = align(&HEAD.map(str::to_owned), &widths);
    let mut table = paint.tone(Tone::Strong, &head);
    for row in &rows {
        table.push('\n');
        table.push_str(&align(row, &widths));
    }
    table
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

fn cells(row: &Row) -> [String; 10] {
    [
        row.id.to_string(),
        printable(&row.proxy).into_owned(),
        printable(&row.client).into_owned(),
        printable(row.upstream.as_deref().unwrap_or("-")).into_owned(),
        printable(&row.protocol).into_owned(),
        row.state.word().to_string(),
        age(Duration::from_millis(row.age_ms)),
        age(Duration::from_millis(row.idle_ms)),
        bytes(row.bytes.to_upstream),
        bytes(row.bytes.to_client),
    ]
}

fn align(cells: &[String; 10], widths: &[usize; 10]) -> String {
    let mut line = String::new();
    for ((cell, width), is_number) in cells.iter().zip(widths).zip(IS_NUMBER) {
        if !line.is_empty() {
            line.push_str("  ");
        }
        line.push_str(&if is_number { format!("{cell:>width$}") } else { format!("{cell:width$}") });
    }
    line.trim_end().to_string()
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
        let rendered = render(&listing, Paint(false));
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
        assert!(render(&listing, Paint(true)).starts_with("\x1b[1m"));
        assert_eq!(
            notes(&listing),
            [
                "2 of 4 connections that fit are left out",
                "1 worker did not answer in time: connections are missing"
            ]
        );
    }

    #[test]
    fn nothing_to_show_is_said() {
        let listing = |total, matching| Listing { total, matching, ..Listing::default() };
        assert_eq!(render(&listing(0, 0), Paint(true)), "No connection is open.");
        assert_eq!(render(&listing(1, 0), Paint(true)), "None of 1 connection fits.");
        assert_eq!(render(&listing(9, 9), Paint(true)), "9 connections fit, none is shown.");
        assert!(notes(&listing(9, 0)).is_empty());
    }
}
