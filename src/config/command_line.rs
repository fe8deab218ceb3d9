//! A configuration from the command line alone: one proxy named "default".

use std::time::Duration;

use super::draft::{Draft, ProxyDraft};
use super::place::{At, Place, Report};
use super::read::{SHORTEST, protocol};
use super::{Config, Errors, address, check, duration};

impl Config {
    /// The configuration of `drained --listen ADDR... --upstream ADDR...`.
    ///
    /// # Errors
    /// As [`super::load`], with the option's name for the place: `--listen: message`.
    pub fn from_command_line(
        listen: &[String],
        upstream: &[String],
        protocol_name: Option<&str>,
        deadline: Option<&str>,
    ) -> Result<Config, Errors> {
        let mut report = Report::default();
        let mut proxy =
            ProxyDraft::new(At { place: Place::Option("--listen"), value: "default".to_string() });
        proxy.listen = Some(all("--listen", listen, &mut report, address::listen));
        proxy.upstream = Some(all("--upstream", upstream, &mut report, address::upstream));
        for (option, list) in [("--listen", listen), ("--upstream", upstream)] {
            if list.is_empty() {
                report.error(&Place::Option(option), "write at least one address");
            }
        }
        if let Some(at) = one("--protocol", protocol_name, &mut report, protocol) {
            proxy.protocol = at.value;
        }
        proxy.drain.deadline = one("--deadline", deadline, &mut report, deadline_of);
        let mut draft = Draft { proxies: vec![proxy], ..Draft::default() };
        check::all(&mut draft, &mut report);
        draft.finish(report)
    }
}

fn deadline_of(text: &str) -> Result<Duration, String> {
    duration::parse(text, SHORTEST)
}

fn all<T>(
    option: &'static str,
    texts: &[String],
    report: &mut Report,
    read: impl Fn(&str) -> Result<T, String>,
) -> Vec<At<T>> {
    texts.iter().filter_map(|text| one(option, Some(text), report, &read)).collect()
}

fn one<T>(
    option: &'static str,
    text: Option<&str>,
    report: &mut Report,
    read: impl Fn(&str) -> Result<T, String>,
) -> Option<At<T>> {
    let place = Place::Option(option);
    match read(text?) {
        Ok(value) => Some(At { place, value }),
        Err(message) => {
            report.error(&place, message);
            None
        }
    }
}
