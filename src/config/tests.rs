//! Tables of what is right and what is wrong, through the whole of the parser.

use super::files::ConfigFile;
use super::*;

fn parse(text: &str) -> Result<Config, Errors> {
    parse_all(&[("drained.toml", text)])
}

fn parse_all(files: &[(&str, &str)]) -> Result<Config, Errors> {
    let files: Vec<ConfigFile> = files
        .iter()
        .map(|(path, text)| ConfigFile { path: PathBuf::from(path), content: Ok(text.as_bytes().to_vec()) })
        .collect();
    draft::build(&files)
}

/// Each text has one error, at the place `LINE:COLUMN`, that says what is right. All cases that
/// fail are told at once.
fn assert_one_error_each(cases: impl IntoIterator<Item = (String, &'static str, &'static str)>) {
    let mut failed = Vec::new();
    for (text, place, right) in cases {
        let Errors(lines) = parse(&text).expect_err(&text);
        let prefix = format!("drained.toml:{place}: ");
        let good = |line: &String| line.starts_with(&prefix) && line.contains(right) && !line.contains('\n');
        if lines.len() != 1 || !lines.iter().all(good) {
            failed.push(format!("{text}\nwanted {prefix}{right}\ngot {lines:#?}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

const SHIPPED: &str = include_str!("../../packaging/drained.toml");
const MAN_PAGE: &str = include_str!("../../packaging/man/drained.toml.5");

/// The shipped file with all its settings in force: lines that begin with # and a word or a table.
fn shipped_uncommented() -> String {
    let setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ");
    SHIPPED.lines().map(|line| if setting(&line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_configuration_has_no_proxy_and_shows_the_defaults() {
    assert_eq!(parse(SHIPPED).expect("valid"), Config::default());

    let shown = parse(&shipped_uncommented()).expect("valid with every setting");
    let [web] = &shown.proxies[..] else { panic!("one proxy") };
    let least = parse(
        "[proxy.web]\nlisten = \"127.0.0.1:80\"\nupstream = [\"127.0.0.1:8000\", \"127.0.0.1:8001\"]\ncheck = {}\n",
    );
    assert_eq!(*web, least.expect("valid").proxies[0]);
    assert_eq!(web.drain, Drain::default());
    assert_eq!(shown.daemon.control, Some("/run/drained/control.sock".into()));
}

#[test]
fn every_key_is_in_the_shipped_configuration_and_in_the_man_page() {
    let shown = shipped_uncommented();
    for key in read::keys() {
        assert!(shown.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key} in drained.toml");
        assert!(MAN_PAGE.lines().any(|line| line == format!(".I {key}")), "{key} in drained.toml(5)");
    }
}

const WEB: &str = "[proxy.web]\nlisten = \"127.0.0.1:80\"\nupstream = \"127.0.0.1:8000\"\n";

#[test]
fn an_empty_configuration_is_valid() {
    assert_eq!(parse("").expect("valid"), Config::default());
    assert_eq!(parse("[daemon]\n[drain]\n[handover]\n[proxy]\n").expect("valid"), Config::default());
}

#[test]
fn a_full_configuration_is_read() {
    let config = parse(
        r#"
        [daemon]
        workers = 2
        control = "/run/drained/control.sock"
        [drain]
        lame_duck = "1s"
        deadline = "1m"
        spread = "3s"
        [proxy.web]
        listen = ["0.0.0.0:80", "[::]:80", "unix:/run/web.sock", "systemd:web"]
        upstream = ["127.0.0.1:8000", "unix:@app"]
        protocol = "tcp"
        connect_timeout = "500ms"
        idle_timeout = "1h"
        max_connections = 1_000
        hold = "0s"
        send_proxy = "v2"
        drain = { lame_duck = "2s", deadline = "2m" }
        [proxy.api]
        listen = "127.0.0.1:81"
        upstream = "127.0.0.1:8001"
        "#,
    )
    .expect("valid");
    let tcp = |text: &str| text.parse::<SocketAddr>().expect("address");
    let s = Duration::from_secs;
    let api = Proxy {
        name: "api".to_string(),
        listen: vec![ListenAddress::Tcp(tcp("127.0.0.1:81"))],
        upstream: vec![UpstreamAddress::Tcp(tcp("127.0.0.1:8001"))],
        protocol: Protocol::Tcp,
        connect_timeout: s(5),
        idle_timeout: None,
        max_connections: None,
        hold: s(30),
        send_proxy: SendProxy::Off,
        check: None,
        drain: Drain { lame_duck: s(1), deadline: s(60), deadline_on_shutdown: s(10), spread: s(3) },
    };
    let web = Proxy {
        name: "web".to_string(),
        listen: vec![
            ListenAddress::Tcp(tcp("0.0.0.0:80")),
            ListenAddress::Tcp(tcp("[::]:80")),
            ListenAddress::Unix(UnixPath::Path("/run/web.sock".into())),
            ListenAddress::Systemd("web".to_string()),
        ],
        upstream: vec![
            UpstreamAddress::Tcp(tcp("127.0.0.1:8000")),
            UpstreamAddress::Unix(UnixPath::Abstract("app".to_string())),
        ],
        connect_timeout: Duration::from_millis(500),
        idle_timeout: Some(s(3600)),
        max_connections: Some(1000),
        hold: Duration::ZERO,
        send_proxy: SendProxy::V2,
        check: None,
        drain: Drain { lame_duck: s(2), deadline: s(120), deadline_on_shutdown: s(10), spread: s(3) },
        protocol: Protocol::Tcp,
    };
    let daemon =
        Daemon { workers: Some(2), control: Some("/run/drained/control.sock".into()), metrics: None };
    let handover = Handover { on_restart: OnRestart::Auto, crash_after: Some(s(1)) };
    assert_eq!(config, Config { daemon, handover, proxies: vec![api, web] });
}

#[test]
fn each_mistake_is_one_clear_line_at_its_place() {
    // Each is appended to a valid proxy that ends on line 3.
    let cases = [
        // Keys.
        (
            "conect_timeout = \"5s\"",
            "4:1",
            "unknown key \"conect_timeout\" in [proxy.web], did you mean \"connect_timeout\"?",
        ),
        ("max-connections = 1", "4:1", "did you mean \"max_connections\"?"),
        ("colour = 1", "4:1", "known are: listen, upstream, protocol"),
        ("[daemon]\nworker = 2", "5:1", "unknown key \"worker\" in [daemon], did you mean \"workers\"?"),
        ("[drain]\nlameduck = \"1s\"", "5:1", "did you mean \"lame_duck\"?"),
        ("drain = { deadlin = \"1s\" }", "4:11", "in drain of [proxy.web], did you mean \"deadline\"?"),
        ("[deamon]\nworkers = 2", "4:2", "unknown table \"deamon\", did you mean \"daemon\"?"),
        ("[api]\nlisten = \"127.0.0.1:81\"", "4:2", "write a proxy as [proxy.api]"),
        (
            "[proxies.api]\nx = 1",
            "4:2",
            "unknown table \"proxies\", known are: daemon, drain, handover, proxy",
        ),
        // Types.
        (
            "max_connections = \"5\"",
            "4:19",
            "max_connections is a string: write a whole number, without quotes",
        ),
        ("max_connections = 5.5", "4:19", "a number with a fraction"),
        ("protocol = 1", "4:12", "protocol is a whole number: write a string, in quotes"),
        ("drain = \"30s\"", "4:9", "drain is a string: write a table"),
        ("[daemon]\nworkers = true", "5:11", "workers is true or false"),
        ("[daemon]\ncontrol = 1979-05-27", "5:11", "control is a date or time"),
        ("[[drain]]\ndeadline = \"1s\"", "4:1", "drain is a list: write a table"),
        ("[proxy]\nlisten = \"127.0.0.1:81\"", "5:1", "a proxy has a name, [proxy.NAME]"),
        // Durations.
        ("idle_timeout = 30", "4:16", "idle_timeout: 30 has no unit: write \"30s\""),
        ("idle_timeout = \"30\"", "4:16", "idle_timeout: \"30\" has no unit: write \"30s\""),
        ("idle_timeout = \"25h\"", "4:16", "at most \"24h\""),
        ("connect_timeout = \"0s\"", "4:19", "at least \"1ms\""),
        ("[drain]\ndeadline = \"0s\"", "5:12", "at least \"1ms\""),
        ("drain = { deadline_on_shutdown = \"0s\" }", "4:34", "at least \"1ms\""),
        ("[drain]\nspread = \"31s\"", "5:10", "longer than the deadline \"30s\""),
        ("drain = { deadline = \"1s\", spread = \"2s\" }", "4:37", "longer than the deadline \"1s\""),
        // Numbers.
        ("[daemon]\nworkers = 0", "5:11", "workers is 0: 1 to 1024 is possible"),
        ("[daemon]\nworkers = 5_000", "5:11", "1 to 1024"),
        ("max_connections = -1", "4:19", "is -1: 0 to 10000000"),
        ("max_connections = 99999999999999999999999999999999999999999999999", "4:19", "0 to 10000000"),
        ("max_connections = 0xffffffff", "4:19", "is 0xffffffff"),
        // Words.
        ("protocol = \"tpc\"", "4:12", "unknown protocol \"tpc\", did you mean \"tcp\"?"),
        ("protocol = \"gopher\"", "4:12", "known are: tcp"),
        ("send_proxy = \"v3\"", "4:14", "off, v1 and v2 are possible"),
        ("send_proxy = true", "4:14", "write a string"),
        // Not yet.
        (
            "[handover]\ncrash_after = \"1\"",
            "5:15",
            "\"1\" has no unit: write \"1s\" for seconds (units: ms, s, m, h); or write \"never\"",
        ),
        ("hold = \"30\"", "4:8", "\"30\" has no unit: write \"30s\" for seconds"),
        ("protocol = \"http1\"", "4:12", "\"http1\" is not available in this version"),
        // The control socket.
        ("[daemon]\ncontrol = \"run/c.sock\"", "5:11", "absolute path"),
        ("[daemon]\ncontrol = \"\"", "5:11", "absolute path"),
        // Names.
        ("[proxy.\"a b\"]\nlisten = \"127.0.0.1:81\"\nupstream = \"127.0.0.1:8000\"", "4:8", "has ' ' in it"),
        ("[proxy.\"\"]\nlisten = \"127.0.0.1:81\"\nupstream = \"127.0.0.1:8000\"", "4:8", "1 to 64"),
        // Proxies that need more.
        ("[proxy.api]\nlisten = \"127.0.0.1:81\"", "4:8", "[proxy.api] has no upstream"),
        ("[proxy.api]\nupstream = \"127.0.0.1:81\"", "4:8", "[proxy.api] has no listen"),
    ];
    assert_one_error_each(cases.map(|(text, place, right)| (format!("{WEB}{text}\n"), place, right)));
}

#[test]
fn lists_and_addresses_are_told_at_their_place() {
    let cases = [
        ("[]", "\"127.0.0.1:1\"", "2:10", "listen is an empty list"),
        ("\"127.0.0.1:1\"", "[]", "3:12", "upstream is an empty list"),
        ("80", "\"127.0.0.1:1\"", "2:10", "listen is a whole number: write a string"),
        ("[\"127.0.0.1:80\", 81]", "\"127.0.0.1:1\"", "2:27", "listen has a whole number in its list"),
        (
            "[\"127.0.0.1:80\", \"localhost:81\"]",
            "\"127.0.0.1:1\"",
            "2:27",
            "listen: \"localhost:81\" is a host name",
        ),
        ("\"systemd:a\"", "\"systemd:b\"", "3:12", "for listen alone"),
        // The same address twice.
        (
            "[\"127.0.0.1:80\", \"127.0.0.1:80\"]",
            "\"127.0.0.1:1\"",
            "2:27",
            "already a listener of this proxy, at drained.toml:2:11",
        ),
        (
            "[\"0.0.0.0:80\", \"127.0.0.1:80\"]",
            "\"127.0.0.1:1\"",
            "2:25",
            "overlaps 0.0.0.0:80 of this proxy",
        ),
        ("[\"[::1]:80\", \"[::]:80\"]", "\"127.0.0.1:1\"", "2:23", "overlaps [::1]:80"),
        ("[\"systemd:a\", \"systemd:a\"]", "\"127.0.0.1:1\"", "2:24", "already a listener"),
        ("[\"unix:/a/b\", \"unix:/a//b\"]", "\"127.0.0.1:1\"", "2:24", "already a listener"),
        ("\"127.0.0.1:80\"", "[\"127.0.0.1:1\", \"127.0.0.1:1\"]", "3:28", "is listed twice"),
        // Loops.
        ("\"127.0.0.1:80\"", "\"127.0.0.1:80\"", "3:12", "a listener of this proxy itself"),
        ("\"0.0.0.0:80\"", "\"127.0.0.2:80\"", "3:12", "a listener of this proxy itself"),
        ("\"[::]:80\"", "\"[::1]:80\"", "3:12", "a listener of this proxy itself"),
        ("\"unix:@a\"", "\"unix:@a\"", "3:12", "a listener of this proxy itself"),
    ];
    assert_one_error_each(cases.map(|(listen, upstream, place, right)| {
        (format!("[proxy.web]\nlisten = {listen}\nupstream = {upstream}\n"), place, right)
    }));
}

#[test]
fn a_proxy_has_sixty_four_upstreams_at_the_most() {
    let text = |n| {
        let list: Vec<_> = (1..=n).map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        format!("[proxy.web]\nlisten = \"127.0.0.1:8080\"\nupstream = [{}]\n", list.join(", "))
    };
    assert_one_error_each([(text(65), "3:1028", "takes 64 at the most")]);
    assert!(parse(&text(64)).is_ok());
}

#[test]
fn what_only_looks_like_a_clash_is_none() {
    for (listen, upstream) in [
        ("[\"0.0.0.0:80\", \"[::]:80\"]", "\"127.0.0.1:8080\""),
        ("[\"127.0.0.1:0\", \"127.0.0.1:0\"]", "\"127.0.0.1:8080\""),
        ("[\"127.0.0.1:80\", \"127.0.0.2:80\"]", "\"127.0.0.3:80\""),
        ("[\"[fe80::1%2]:80\", \"[fe80::1%3]:80\"]", "\"127.0.0.1:80\""),
        ("\"0.0.0.0:80\"", "\"192.0.2.1:80\""),
        ("\"[::]:80\"", "\"127.0.0.1:80\""),
        ("\"unix:/a\"", "\"unix:@/a\""),
    ] {
        parse(&format!("[proxy.web]\nlisten = {listen}\nupstream = {upstream}\n")).expect(listen);
    }
}

#[test]
fn proxies_may_follow_each_other_but_not_in_a_circle() {
    let chain = "[proxy.b]\nlisten = \"127.0.0.1:1\"\nupstream = \"127.0.0.1:2\"\n\
                 [proxy.a]\nlisten = \"127.0.0.1:2\"\nupstream = \"127.0.0.1:3\"\n";
    parse(chain).expect("a chain is no loop");
    let Errors(lines) = parse(&chain.replace(":3\"", ":1\"")).expect_err("a circle");
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("drained.toml:3:12: upstream: 127.0.0.1:2 is the proxy \"a\""), "{lines:?}");
    assert!(lines[1].starts_with("drained.toml:6:12: upstream: 127.0.0.1:1 is the proxy \"b\""), "{lines:?}");
}

#[test]
fn all_errors_of_all_files_are_told_at_once_in_order() {
    let Errors(lines) = parse_all(&[
        ("drained.toml", "[daemon]\nworkers = 2\n[drain]\ndeadline = \"1m\"\n[proxy.web]\nlisten = \"0.0.0.0:80\"\nupstream = \"127.0.0.1:1\"\nidle_timeout = 3\n"),
        ("conf.d/a.toml", "[daemon]\nworkers = 2\n[drain]\ndeadline = \"1m\"\n"),
        ("conf.d/b.toml", "[proxy.web]\n[proxy.api]\nlisten = \"127.0.0.1:80\"\nupstream = \"127.0.0.1:2\"\n"),
        ("conf.d/c.toml", "[daemon]\ncontrol = \"/c\"\n[proxy.x]\nlisten = \"unix:/c\"\nupstream = \"127.0.0.1:3\"\n"),
    ])
    .expect_err("errors");
    assert_eq!(
        lines,
        [
            "drained.toml:8:16: idle_timeout: 3 has no unit: write \"3s\" for seconds, in quotes (units: ms, s, m, h)",
            "conf.d/a.toml:2:11: workers is set twice, first at drained.toml:2:11",
            "conf.d/a.toml:4:12: deadline is set twice, first at drained.toml:4:12",
            "conf.d/b.toml:1:8: the proxy \"web\" is defined twice, first at drained.toml:5:8",
            "conf.d/b.toml:3:10: listen: 127.0.0.1:80 overlaps 0.0.0.0:80 of the proxy \"web\", at drained.toml:6:10",
            "conf.d/c.toml:4:10: listen: unix:/c is the control socket, set at conf.d/c.toml:2:11",
        ]
    );
}

#[test]
fn nobody_listens_on_the_control_socket_of_the_unit() {
    let proxy = "[proxy.x]\nlisten = \"unix:/run/drained/control.sock\"\nupstream = \"127.0.0.1:3\"\n";
    assert_eq!(
        parse(proxy).expect_err("an error").0,
        [
            "drained.toml:2:10: listen: unix:/run/drained/control.sock is the control socket of drained.service, unless \
          control is set to another"
        ]
    );
    parse(&format!("[daemon]\ncontrol = \"/c\"\n{proxy}")).expect("another one is set");
}

#[test]
fn what_is_not_toml_is_told_without_its_consequences() {
    let cases = [
        ("[proxy.web\nlisten = \"127.0.0.1:80\"\n", "1:11", "unclosed table, expected `]`"),
        ("[proxy.web]\nlisten = \"127.0.0.1:80\nupstream = \"127.0.0.1:1\"\n", "2:23", "expected `\"`"),
        ("[proxy.web]\nlisten = [\"127.0.0.1:80\"\nupstream = \"127.0.0.1:1\"\n", "3:1", "missing comma"),
        ("[proxy.web]\nlisten 127.0.0.1:80\nupstream = \"127.0.0.1:1\"\n", "2:8", "expected `=`"),
        (
            "[proxy.web]\nlisten = 127.0.0.1:80\nupstream = \"127.0.0.1:1\"\n",
            "2:15",
            "in quotes: \"127.0.0.1:80\"",
        ),
        ("[proxy.web]\nlisten = localhost\nupstream = \"127.0.0.1:1\"\n", "2:10", "in quotes: \"localhost\""),
        (
            "[proxy.web]\nlisten = \"127.0.0.1:80\"\nlisten = \"[::1]:80\"\nupstream = \"127.0.0.1:1\"\n",
            "3:1",
            "duplicate",
        ),
        ("[drain]\ndeadline = 30s\n", "2:12", "in quotes: \"30s\""),
        ("[drain]\n[drain]\n", "2:2", "duplicate"),
    ];
    assert_one_error_each(cases.map(|(text, place, right)| (text.to_string(), place, right)));
}

#[test]
fn mistakes_above_a_line_that_is_not_toml_are_told() {
    let Errors(lines) =
        parse("workers = 2\n[drain]\nspred = \"1s\"\nspread = 1s\n[proxy.web]\n").expect_err("errors");
    let places: Vec<_> = lines.iter().map(|line| line.split(": ").next().expect("a place")).collect();
    assert_eq!(places, ["drained.toml:1:1", "drained.toml:3:1", "drained.toml:4:10"], "{lines:#?}");
}

#[test]
fn columns_count_characters() {
    let text =
        "# \u{e4}\n[proxy.web]\nlisten = [\"unix:/\u{e4}\u{f6}\", \"x\"]\nupstream = \"127.0.0.1:1\"\n";
    assert_one_error_each([(text.to_string(), "3:23", "\"x\" is not an address")]);
}

#[test]
fn a_file_that_is_not_text_or_cannot_be_read_is_told_with_the_rest() {
    let files = [
        ConfigFile { path: "a".into(), content: Ok(b"# ok\nx = \"\xff\"\n".to_vec()) },
        ConfigFile { path: "b".into(), content: Err("cannot be read: Permission denied".to_string()) },
        ConfigFile { path: "c".into(), content: Ok(b"x = 1\n".to_vec()) },
    ];
    let Errors(lines) = draft::build(&files).expect_err("errors");
    assert_eq!(lines[..2], ["a:2:6: this is not UTF-8 text", "b: cannot be read: Permission denied"]);
    assert!(lines[2].starts_with("c:1:1: unknown key \"x\""), "{lines:?}");
}

#[test]
fn the_command_line_makes_one_proxy() {
    let text = |items: &[&str]| items.iter().map(|s| s.to_string()).collect::<Vec<_>>();
    let config = Config::from_command_line(
        &text(&["127.0.0.1:80", "systemd:web"]),
        &text(&["127.0.0.1:8000"]),
        Some("tcp"),
        Some("2m"),
    )
    .expect("valid");
    let proxy = &config.proxies[0];
    assert_eq!((config.proxies.len(), proxy.name.as_str(), proxy.listen.len()), (1, "default", 2));
    assert_eq!(proxy.drain, Drain { deadline: Duration::from_secs(120), ..Drain::default() });

    let Errors(lines) = Config::from_command_line(
        &text(&["localhost:80", "0.0.0.0:81", "127.0.0.1:81"]),
        &text(&["127.0.0.1:81", "[::]:1"]),
        Some("http1"),
        Some("30"),
    )
    .expect_err("errors");
    assert_eq!(lines.len(), 6, "{lines:#?}");
    for right in [
        "--listen: \"localhost:80\" is a host name",
        "--listen: 127.0.0.1:81 overlaps 0.0.0.0:81",
        "--upstream: 127.0.0.1:81 is a listener of this proxy itself",
        "--upstream: \"[::]:1\" is no address to connect to",
        "--protocol: \"http1\" is not available",
        "--deadline: \"30\" has no unit",
    ] {
        assert_eq!(lines.iter().filter(|line| line.starts_with(right)).count(), 1, "{right}: {lines:#?}");
    }
    assert!(Config::from_command_line(&[], &[], None, None).is_err_and(|Errors(lines)| lines.len() == 2));
}

/// Pieces of real configurations in random order, and random bytes: an answer, never a panic, and
/// each error a line with a place.
#[test]
fn garbage_never_panics() {
    const PIECES: [&str; 40] = [
        "[daemon]",
        "[drain]",
        "[proxy.web]",
        "[proxy.api]",
        "[handover]",
        "[[proxy]]",
        "[",
        "]",
        "{",
        "}",
        "=",
        ",",
        "\n",
        "\n",
        "\n",
        "\"",
        "'''",
        "\"\"\"",
        "#",
        ".",
        "-",
        " ",
        "listen",
        "upstream",
        "drain",
        "workers",
        "deadline",
        "\"127.0.0.1:80\"",
        "\"[::]:80\"",
        "\"30s\"",
        "\"30\"",
        "\"unix:/\u{e4}\"",
        "\"systemd:\"",
        "0x7f",
        "1e9",
        "nan",
        "true",
        "1979-05-27",
        "\u{0}",
        "\u{10ffff}",
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        // xorshift64*, seeded, so that a failure can be repeated.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
    };
    for round in 0..4000 {
        let mut content = Vec::new();
        for _ in 0..random() % 60 {
            if round % 4 == 0 {
                content.push(random() as u8);
            } else {
                content.extend_from_slice(PIECES[random() % PIECES.len()].as_bytes());
                content.extend_from_slice(["", " ", "\n"][random() % 3].as_bytes());
            }
        }
        if let Err(Errors(lines)) =
            draft::build(&[ConfigFile { path: "f".into(), content: Ok(content.clone()) }])
        {
            let good = |line: &String| line.starts_with("f:") && !line.contains('\n');
            assert!(
                !lines.is_empty() && lines.iter().all(good),
                "{:?}\n{lines:#?}",
                String::from_utf8_lossy(&content)
            );
        }
    }
}
