//! What keys do, and how it looks at any size, without a terminal.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::model::{Mode, Rate, Step, Told, Top};
use super::view;
use crate::control::connections::{Doing, Listing, Row, Sort};
use crate::control::status::{
    Adopted, Bytes, Connections, ProxyStatus, State, Status, UpstreamState, UpstreamStatus,
};

/// What no terminal may get to see.
const HOSTILE: &str = "x\x1b[2J\u{9b}31m\r\n\u{202e}";

fn proxy(accepted: u64, bytes: u64, address: &str) -> ProxyStatus {
    let upstream =
        |address: &str, state| UpstreamStatus { address: address.to_owned(), state, connections: 1 };
    ProxyStatus {
        state: State::Running,
        holding: false,
        protocol: "tcp".to_owned(),
        connections: Connections { active: 2, accepted, failed: 1, ..Connections::default() },
        bytes: Bytes { to_upstream: bytes, to_client: 2 * bytes },
        upstreams: vec![upstream(address, UpstreamState::Up), upstream("127.0.0.1:2", UpstreamState::Down)],
    }
}

fn row(id: u64, upstream: &str) -> Row {
    Row {
        id,
        proxy: "web".to_owned(),
        protocol: "tcp".to_owned(),
        client: format!("192.0.2.7:{id}"),
        upstream: Some(upstream.to_owned()),
        state: Doing::Quiet,
        age_ms: 61_000,
        idle_ms: 2_000,
        bytes: Bytes { to_upstream: id, to_client: 1536 },
        parked: false,
    }
}

fn told(at: Instant, pid: u32, accepted: u64, ids: &[u64]) -> Told {
    let status = Status {
        version: "0.1.0".to_owned(),
        pid,
        state: State::Running,
        uptime_s: 61,
        adopted: Adopted::default(),
        proxies: [("web".to_owned(), proxy(accepted, 1024 * accepted, "127.0.0.1:1"))].into(),
    };
    let connections: Vec<_> = ids.iter().map(|id| row(*id, "127.0.0.1:1")).collect();
    let n = ids.len() as u64;
    Told { at, status, listing: Listing { total: n, matching: n, silent_workers: 0, connections } }
}

fn press(top: &mut Top, key: KeyCode) -> Step {
    top.key(KeyEvent::new(key, KeyModifiers::NONE))
}

fn write(top: &mut Top, text: &str) -> Vec<Step> {
    text.chars().map(|c| press(top, KeyCode::Char(c))).collect()
}

fn marked(top: &Top) -> Option<u64> {
    top.marked().map(|row| row.id)
}

#[test]
fn rates_are_those_between_two_answers_of_one_process() {
    let (mut top, began) = (Top::default(), Instant::now());
    let after = |ms| began + Duration::from_millis(ms);
    top.told(told(began, 1, 100, &[]));
    assert_eq!(top.rate(), None);
    top.told(told(after(100), 1, 900, &[]));
    assert_eq!(top.rate(), None, "over so short a time nothing is measured");
    top.told(told(after(2_000), 1, 120, &[]));
    let rate = Rate { accepted: 10.0, to_upstream: 10_240.0, to_client: 20_480.0 };
    assert_eq!(top.rate(), Some(rate));
    top.told(told(after(2_100), 1, 900, &[]));
    assert_eq!(top.rate(), Some(rate), "the last one stays");
    top.told(told(after(3_000), 2, 5, &[]));
    assert_eq!(top.rate(), None, "another process counts anew");
    top.told(told(after(4_000), 2, 6, &[]));
    assert_eq!(top.rate().map(|rate| rate.accepted), Some(1.0));
    top.gone("why".to_owned());
    assert_eq!((top.rate(), top.gone.as_deref()), (None, Some("why")));
    top.told(told(after(5_000), 2, 6, &[]));
    assert_eq!((top.rate(), top.gone.as_deref()), (None, None));
}

#[test]
fn the_marked_row_is_followed_until_something_else_is_asked() {
    let (mut top, now) = (Top::default(), Instant::now());
    top.told(told(now, 1, 0, &[1, 2, 3]));
    press(&mut top, KeyCode::Down);
    assert_eq!(marked(&top), Some(2));
    top.told(told(now, 1, 0, &[2, 3, 1]));
    assert_eq!(marked(&top), Some(2));
    press(&mut top, KeyCode::End);
    top.told(told(now, 1, 0, &[2, 3]));
    assert_eq!(marked(&top), Some(3), "what is gone leaves the mark to the last");
    assert_eq!((press(&mut top, KeyCode::Char('s')), top.sort), (Step::Ask, Sort::Idle));
    assert_eq!(top.query().sort, Sort::Idle);
    top.told(told(now, 1, 0, &[9, 3]));
    assert_eq!(marked(&top), Some(9), "a new order begins with its first");
    top.told(told(now, 1, 0, &[]));
    assert_eq!((marked(&top), top.selected), (None, 0));
    for key in [KeyCode::Up, KeyCode::Down, KeyCode::PageDown, KeyCode::Home, KeyCode::End] {
        assert_eq!(press(&mut top, key), Step::Stay);
    }
}

#[test]
fn the_marked_row_is_always_seen() {
    let mut top = Top::default();
    let ids: Vec<u64> = (0..50).collect();
    top.told(told(Instant::now(), 1, 0, &ids));
    for page in [1, 2, 7, 49, 50, 51, 3, 0, 10] {
        top.scroll(page);
        for key in
            [KeyCode::PageDown, KeyCode::Down, KeyCode::End, KeyCode::Up, KeyCode::PageUp, KeyCode::Home]
        {
            press(&mut top, key);
            top.scroll(page);
            let seen = top.first..top.first + page.max(1);
            assert!(seen.contains(&top.selected), "{page} {key:?}: {} in {seen:?}", top.selected);
            assert!(page == 0 || page > 50 || seen.end <= 50, "{page} {key:?}: empty lines at the end");
        }
    }
}

#[test]
fn a_filter_counts_while_it_is_written_and_esc_brings_back_the_old_one() {
    let mut top = Top::default();
    top.told(told(Instant::now(), 1, 0, &[1]));
    assert_eq!(write(&mut top, "/ab"), [Step::Stay, Step::Ask, Step::Ask]);
    assert_eq!(top.query().text.as_deref(), Some("ab"));
    assert_eq!(press(&mut top, KeyCode::Enter), Step::Stay);
    assert_eq!((&top.mode, top.filter.as_str()), (&Mode::List, "ab"));
    assert_eq!(write(&mut top, "/q?d"), [Step::Stay, Step::Ask, Step::Ask, Step::Ask]);
    assert_eq!(press(&mut top, KeyCode::Esc), Step::Ask);
    assert_eq!((&top.mode, top.filter.as_str()), (&Mode::List, "ab"));
    write(&mut top, "/");
    for left in [Some("a"), None] {
        assert_eq!(press(&mut top, KeyCode::Backspace), Step::Ask);
        assert_eq!(top.query().text.as_deref(), left);
    }
    assert_eq!(press(&mut top, KeyCode::Backspace), Step::Stay);
    assert_eq!(top.mode, Mode::List);
    write(&mut top, "/");
    write(&mut top, &"x".repeat(1_000));
    assert!(top.filter.len() < 100);
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(top.key(interrupt), Step::Quit, "also while it is written");
}

#[test]
fn nothing_is_drained_without_a_yes() {
    let mut top = Top::default();
    write(&mut top, "d");
    assert!(top.note.is_some() && top.mode == Mode::List, "there is nothing to drain");
    top.told(told(Instant::now(), 1, 0, &[1]));
    let drain = Step::Drain { proxy: "web".to_owned(), upstream: "127.0.0.1:1".to_owned() };
    assert_eq!(write(&mut top, "dy"), [Step::Stay, drain]);
    for other in ['n', 'd', 'q', ' '] {
        assert_eq!(write(&mut top, &format!("d{other}")), [Step::Stay, Step::Stay]);
        assert_eq!((&top.mode, top.note.as_deref()), (&Mode::List, Some("nothing is drained")));
    }
    write(&mut top, "d");
    // What is asked is about the row that was marked then.
    top.told(told(Instant::now(), 1, 0, &[]));
    assert!(matches!(press(&mut top, KeyCode::Char('y')), Step::Drain { .. }));
    top.listing.connections = vec![Row { upstream: None, ..row(1, "") }];
    write(&mut top, "d");
    assert_eq!((&top.mode, top.note.as_deref()), (&Mode::List, Some("this connection has no upstream")));
    for quits in [KeyCode::Char('q'), KeyCode::Esc] {
        assert_eq!(press(&mut top, quits), Step::Quit);
    }
    assert_eq!(write(&mut top, "?q"), [Step::Stay, Step::Stay], "any key closes the help");
    assert_eq!(top.mode, Mode::List);
}

fn drawn(top: &mut Top, (width, height): (u16, u16), has_colours: bool) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| view::draw(frame, top, has_colours)).expect("draws");
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let rows = (0..buffer.area.height).map(|y| (0..buffer.area.width).map(move |x| (x, y)));
    rows.map(|row| row.map(|at| buffer[at].symbol()).collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn it_shows_what_there_is_at_80_by_24() {
    let (mut top, began) = (Top::default(), Instant::now());
    top.told(told(began, 1, 0, &[1]));
    top.told(told(began + Duration::from_secs(1), 1, 3, &[12, 345]));
    let mut expected = vec![
        "drained 0.1.0  running  up 1m 1s  pid 1",
        "2 connections  3.0 new/s  to upstreams 3.0 KiB/s  to clients 6.0 KiB/s",
        "",
        "PROXY  STATE    ACTIVE  NEW/S  UPSTREAM/S  CLIENT/S  HELD  CUT  FAILED  PROTOCOL",
        "web    running       2    3.0     3.0 KiB   6.0 KiB     0    0       1  tcp",
        "  127.0.0.1:1  up    1 connection",
        "  127.0.0.1:2  down  1 connection",
        "",
        "2 connections by age",
        "CLIENT         UPSTREAM     PROXY  STATE   AGE  IDLE  TO UPSTREAM  TO CLIENT",
        "192.0.2.7:12   127.0.0.1:1  web    quiet  1m 1s    2s         12 B    1.5 KiB",
        "192.0.2.7:345  127.0.0.1:1  web    quiet  1m 1s    2s        345 B    1.5 KiB",
    ];
    expected[9] = "CLIENT         UPSTREAM     PROXY  STATE    AGE  IDLE  TO UPSTREAM  TO CLIENT";
    expected.resize(23, "");
    expected.push("q quit  s sort  / filter  d drain  ? help");
    assert_eq!(lines(&drawn(&mut top, (80, 24), true)), expected);

    top.listing.silent_workers = 1;
    top.listing.matching = 9;
    top.filter = "7".to_owned();
    let shown = lines(&drawn(&mut top, (80, 24), true)).join("\n");
    assert!(shown.contains("9 of 2 with \"7\" by age, the first 2  1 worker did not answer\n"), "{shown}");
    top.gone("it is not there".to_owned());
    let shown = lines(&drawn(&mut top, (80, 24), true)).join("\n");
    assert!(shown.starts_with("drained 0.1.0  no answer  up"), "{shown}");
    assert!(shown.contains("\nAsked again each second: it is not there\n"), "{shown}");
}

#[test]
fn help_and_question_are_whole_at_40_by_10() {
    let mut top = Top::default();
    top.told(told(Instant::now(), 1, 0, &[1]));
    let whole = |top: &mut Top, size, words: &[&str]| {
        let shown = lines(&drawn(top, size, false)).join("\n");
        let text: String = shown.chars().filter(|c| !c.is_whitespace() && !"│┌┐└┘─".contains(*c)).collect();
        for word in words {
            let word: String = word.chars().filter(|c| !c.is_whitespace()).collect();
            assert!(text.contains(&word), "{word:?} at {size:?}:\n{shown}");
        }
    };
    write(&mut top, "?");
    whole(
        &mut top,
        (40, 10),
        &["Ctrl-C   quit", "another order", "drain an upstream", "NEW/S: connections a second"],
    );
    whole(&mut top, (80, 24), &["draw anew", "of the whole connection below."]);
    write(&mut top, " d");
    let all = [
        "Drain 127.0.0.1:1",
        "of proxy web?",
        "It has 1 connection.",
        "No new connection",
        "any other key no",
    ];
    for size in [(40, 10), (80, 24), (132, 43), (200, 60)] {
        whole(&mut top, size, &all);
    }
    whole(&mut top, (30, 7), &["Drain 127.0.0.1:1", "of proxy web?", "any other key no"]);
    whole(&mut top, (40, 2), &["y drains 127.0.0.1:1"]);
    let path = format!("unix:/{}", "x".repeat(106));
    top.mode = Mode::Confirm { proxy: "p".repeat(64), upstream: path.clone() };
    for size in [(40, 10), (40, 12), (80, 24), (200, 60)] {
        whole(&mut top, size, &["any other key no"]);
    }
    whole(&mut top, (80, 24), &["No new connection", "of proxy"]);
}

#[test]
fn what_is_old_is_dim_and_why_is_told_in_whole() {
    let mut top = Top::default();
    top.told(told(Instant::now(), 1, 0, &[1]));
    let dim = |buffer: &Buffer, word: &str| {
        let all = lines(buffer);
        let y = all.iter().position(|line| line.contains(word)).unwrap_or_else(|| panic!("{word}: {all:#?}"));
        buffer[(0, y as u16)].modifier.contains(Modifier::DIM)
    };
    for size in [(40, 10), (80, 24)] {
        assert!(!dim(&drawn(&mut top, size, true), "192.0.2.7"));
    }
    let why = "drained is not running: nobody answers on /run/drained/control.sock; start it with: systemctl start drained";
    top.gone(why.to_owned());
    for size in [(40, 10), (80, 24)] {
        let buffer = drawn(&mut top, size, true);
        assert!(
            dim(&buffer, "192.0.2.7") && !dim(&buffer, "no answer") && !dim(&buffer, "? help"),
            "{size:?}"
        );
        let shown = lines(&buffer).join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.contains(why), "{shown}");
    }
    top.note("127.0.0.1:1 is not drained: ".to_owned() + why);
    let shown = lines(&drawn(&mut top, (80, 24), true));
    assert!(
        shown[23].ends_with("start drained") && shown[22].starts_with("127.0.0.1:1 is not"),
        "{shown:#?}"
    );
}

#[test]
fn long_names_and_addresses_push_out_nothing() {
    let mut top = Top::default();
    let mut told = told(Instant::now(), 1, 0, &[1]);
    let (path, v6) =
        (format!("unix:/{}.sock", "x".repeat(102)), "[2001:db8:1111:2222:3333:4444:5555:6666]:65535");
    told.status.proxies = [("n".repeat(64), proxy(0, 0, &path)), ("web".to_owned(), proxy(0, 0, v6))].into();
    told.listing.connections = [row(1, &path), row(2, v6)].into();
    top.told(told);
    let shown = lines(&drawn(&mut top, (80, 24), false)).join("\n");
    for word in ["ACTIVE", "xxx.sock  up", "6666]:65535", "AGE", "1m 1s", "…nnn", "up    1 connection\n"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let narrow = lines(&drawn(&mut top, (40, 20), false)).join("\n");
    for word in ["running  up 1m 1s", "192.0.2.7:1 ", "AGE  IDLE\n", ".sock  up", "down\n"] {
        assert!(narrow.contains(word), "{word}: {narrow}");
    }
    let wide = lines(&drawn(&mut top, (240, 60), false)).join("\n");
    assert!(wide.contains(&path), "{wide}");
}

#[test]
fn many_proxies_leave_room_for_the_connections() {
    let mut top = Top::default();
    let mut told = told(Instant::now(), 1, 0, &[1, 2, 3]);
    told.status.proxies = (0..40).map(|n| (format!("p{n:02}"), proxy(0, 0, "127.0.0.1:1"))).collect();
    top.told(told);
    let shown = lines(&drawn(&mut top, (80, 24), false)).join("\n");
    assert!(shown.contains("109 more lines have no room"), "{shown}");
    assert!(shown.contains("192.0.2.7:1 ") && shown.contains("192.0.2.7:3 "), "{shown}");
}

#[test]
fn nothing_hostile_is_drawn_and_no_size_is_too_small() {
    let mut top = Top::default();
    let mut told = told(Instant::now(), 1, 0, &[]);
    let mut wrong = proxy(0, u64::MAX / 2, HOSTILE);
    wrong.protocol = HOSTILE.to_owned();
    wrong.connections.active = u64::MAX;
    told.status.version = HOSTILE.to_owned();
    told.status.proxies.insert(HOSTILE.to_owned(), wrong);
    told.listing.connections = (0..30)
        .map(|n| Row { proxy: HOSTILE.to_owned(), client: HOSTILE.to_owned(), ..row(n, HOSTILE) })
        .collect();
    top.told(told);
    let drain = Mode::Confirm { proxy: HOSTILE.to_owned(), upstream: HOSTILE.to_owned() };
    for mode in [Mode::List, Mode::Filter { before: String::new() }, drain, Mode::Help] {
        for (gone, note) in [(false, false), (true, true)] {
            top.filter = HOSTILE.to_owned();
            if gone {
                top.gone(HOSTILE.to_owned());
            }
            top.note = None;
            if note {
                top.note(HOSTILE.to_owned());
            }
            top.mode = mode.clone();
            let sizes = (0..60).flat_map(|n| [(n, 24), (80, n), (n, n), (n, 60 - n)]);
            for size in sizes.chain([(300, 100)]) {
                let buffer = drawn(&mut top, size, false);
                for cell in &buffer.content {
                    let symbol = cell.symbol();
                    assert!(!symbol.contains(|c: char| c.is_control() || c == '\u{202e}'), "{symbol:?}");
                    assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset), "colours that nobody wants");
                }
            }
        }
    }
}

#[test]
fn colours_tell_good_from_bad() {
    let mut top = Top::default();
    top.told(told(Instant::now(), 1, 0, &[1]));
    let buffer = drawn(&mut top, (80, 24), true);
    for (word, colour) in [("running", Color::Green), ("up  ", Color::Green), ("down", Color::Red)] {
        let y = lines(&buffer).iter().rposition(|line| line.contains(word)).expect(word);
        let x = lines(&buffer)[y].find(word).expect(word);
        assert_eq!(buffer[(x as u16, y as u16)].fg, colour, "{word}");
    }
}
