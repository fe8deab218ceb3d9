//! Checks across keys, proxies and files: addresses that clash, loops, a spread past its deadline.

use std::net::SocketAddr;

use super::draft::{Draft, ProxyDraft};
use super::place::{At, Place, Report};
use super::{
    DEFAULT_CONTROL, ListenAddress, MOST_UPSTREAMS, MetricsAddress, UnixPath, UpstreamAddress, duration,
};

pub(super) fn all(draft: &mut Draft, report: &mut Report) {
    // Tables are read in the order of their names; errors shall name the later place of two.
    draft.proxies.sort_by(|a, b| a.name.place.cmp(&b.name.place));
    listeners(draft, report);
    metrics(draft, report);
    upstreams(&draft.proxies, report);
    loops(&draft.proxies, report);
    spreads(draft, report);
}

/// No two listeners overlap, and none is the control socket.
fn listeners(draft: &Draft, report: &mut Report) {
    let mut all: Vec<(&ProxyDraft, &At<ListenAddress>)> =
        draft.proxies.iter().flat_map(|proxy| listen(proxy).map(move |at| (proxy, at))).collect();
    all.sort_by(|a, b| a.1.place.cmp(&b.1.place));
    for (i, (proxy, at)) in all.iter().enumerate() {
        if let Some((other, first)) = all[..i].iter().find(|(_, first)| overlap(&first.value, &at.value)) {
            report.error(&at.place, clash(proxy, at, other, first));
        }
        not_control(draft, &at.value, "listen", &at.place, report);
    }
}

/// The metrics have an address of their own.
fn metrics(draft: &Draft, report: &mut Report) {
    let Some(At { place, value: metrics }) = &draft.metrics else { return };
    let address = match metrics {
        MetricsAddress::Tcp(address) => ListenAddress::Tcp(*address),
        MetricsAddress::Unix(path) => ListenAddress::Unix(path.clone()),
    };
    for proxy in &draft.proxies {
        if let Some(first) = listen(proxy).find(|listen| overlap(&listen.value, &address)) {
            let (name, at) = (&proxy.name.value, &first.place);
            let text = format!("metrics: {metrics} overlaps the listener {} of {name}, at {at}", first.value);
            report.error(place, text);
        }
    }
    not_control(draft, &address, "metrics", place, report);
}

/// What `key` says is not the control socket.
fn not_control(draft: &Draft, address: &ListenAddress, key: &str, place: &Place, report: &mut Report) {
    let ListenAddress::Unix(UnixPath::Path(path)) = address else { return };
    match &draft.control {
        Some(control) if *path == control.value => {
            report.error(place, format!("{key}: {address} is the control socket, set at {}", control.place));
        }
        None if *path == *DEFAULT_CONTROL => {
            let unless = "unless control is set to another";
            report
                .error(place, format!("{key}: {address} is the control socket of drained.service, {unless}"));
        }
        _ => {}
    }
}

fn clash(
    proxy: &ProxyDraft,
    at: &At<ListenAddress>,
    other: &ProxyDraft,
    first: &At<ListenAddress>,
) -> String {
    let address = &at.value;
    let relation = if *address == first.value {
        "is already a listener".to_string()
    } else {
        format!("overlaps {}", first.value)
    };
    let whose = if std::ptr::eq(proxy, other) {
        "this proxy".to_string()
    } else {
        format!("the proxy {:?}", other.name.value)
    };
    match &first.place {
        Place::Option(_) => format!("{address} {relation}, given before"),
        place => format!("listen: {address} {relation} of {whose}, at {place}"),
    }
}

fn upstreams(proxies: &[ProxyDraft], report: &mut Report) {
    for proxy in proxies {
        let all: Vec<_> = upstream(proxy).collect();
        if let Some(at) = all.get(MOST_UPSTREAMS) {
            let text =
                format!("there are {} upstreams, but a proxy takes {MOST_UPSTREAMS} at the most", all.len());
            report.error(&at.place, key("upstream", &at.place, text));
        }
        for (i, at) in all.iter().enumerate() {
            if all[..i].iter().any(|first| first.value == at.value) {
                report.error(&at.place, key("upstream", &at.place, format!("{} is listed twice", at.value)));
            }
        }
    }
}

/// No connection may come back to the proxy that it left.
fn loops(proxies: &[ProxyDraft], report: &mut Report) {
    for proxy in proxies {
        for at in upstream(proxy) {
            let Some(next) = served_by(proxies, &at.value) else { continue };
            let address = &at.value;
            if std::ptr::eq(next, proxy) {
                let text = format!(
                    "{address} is a listener of this proxy itself: its connections would go in a loop"
                );
                report.error(&at.place, key("upstream", &at.place, text));
            } else if reaches(proxies, next, proxy, &mut Vec::new()) {
                let next = &next.name.value;
                let text = format!("{address} is the proxy {next:?}, whose upstream leads back here: a loop");
                report.error(&at.place, key("upstream", &at.place, text));
            }
        }
    }
}

fn reaches<'a>(
    proxies: &'a [ProxyDraft],
    from: &'a ProxyDraft,
    to: &ProxyDraft,
    seen: &mut Vec<&'a str>,
) -> bool {
    if std::ptr::eq(from, to) {
        return true;
    }
    if seen.contains(&from.name.value.as_str()) {
        return false;
    }
    seen.push(&from.name.value);
    upstream(from).filter_map(|at| served_by(proxies, &at.value)).any(|next| reaches(proxies, next, to, seen))
}

fn spreads(draft: &Draft, report: &mut Report) {
    let mut check = |own: &super::draft::DrainDraft, fallback: Option<&Place>| {
        let drain = own.over(&draft.drain);
        // Where the defaults themselves are wrong they are told once, not for each proxy.
        let place = own.spread.as_ref().or(own.deadline.as_ref()).map(|at| &at.place).or(fallback);
        if let Some(place) = place.filter(|_| drain.spread > drain.deadline) {
            let (spread, deadline) = (duration::render(drain.spread), duration::render(drain.deadline));
            let text = format!(
                "the spread {spread:?} is longer than the deadline {deadline:?}: goodbyes would come after the cut"
            );
            report.error(place, text);
        }
    };
    let defaults = draft.drain.spread.as_ref().map(|at| &at.place);
    check(&Default::default(), defaults);
    for proxy in &draft.proxies {
        check(&proxy.drain, None);
    }
}

fn key(key: &str, place: &Place, message: String) -> String {
    match place {
        Place::Option(_) => message,
        Place::File { .. } => format!("{key}: {message}"),
    }
}

fn listen(proxy: &ProxyDraft) -> impl Iterator<Item = &At<ListenAddress>> {
    proxy.listen.iter().flatten()
}

fn upstream(proxy: &ProxyDraft) -> impl Iterator<Item = &At<UpstreamAddress>> {
    proxy.upstream.iter().flatten()
}

fn served_by<'a>(proxies: &'a [ProxyDraft], upstream: &UpstreamAddress) -> Option<&'a ProxyDraft> {
    proxies.iter().find(|proxy| listen(proxy).any(|at| serves(&at.value, upstream)))
}

/// True if a connection to `upstream` arrives at the listener, as far as addresses alone tell.
fn serves(listener: &ListenAddress, upstream: &UpstreamAddress) -> bool {
    match (listener, upstream) {
        (ListenAddress::Tcp(listener), UpstreamAddress::Tcp(upstream)) => {
            let local = listener.ip().is_unspecified() && upstream.ip().is_loopback();
            listener.port() == upstream.port()
                && listener.is_ipv4() == upstream.is_ipv4()
                && (local || same_ip(listener, upstream))
        }
        (ListenAddress::Unix(listener), UpstreamAddress::Unix(upstream)) => listener == upstream,
        _ => false,
    }
}

/// True if the kernel would not let both listen.
fn overlap(a: &ListenAddress, b: &ListenAddress) -> bool {
    match (a, b) {
        (ListenAddress::Tcp(a), ListenAddress::Tcp(b)) => {
            let any = a.ip().is_unspecified() || b.ip().is_unspecified();
            a.port() == b.port() && a.port() != 0 && a.is_ipv4() == b.is_ipv4() && (any || same_ip(a, b))
        }
        _ => a == b,
    }
}

/// The same IP address, and for link-local ones the same interface.
fn same_ip(a: &SocketAddr, b: &SocketAddr) -> bool {
    let scope = |address: &SocketAddr| match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    };
    a.ip() == b.ip() && scope(a) == scope(b)
}
