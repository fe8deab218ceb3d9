//! iperf3: bulk in both directions.

use serde_json::Value;

use super::LONG;
use crate::support::drained::Setup;
use crate::support::real_peers::client::run;
use crate::support::real_peers::drained::Drained;
use crate::support::real_peers::server::Server;

#[test]
#[ignore = "needs iperf3 and root: `make test` as root"]
fn iperf3_runs_both_ways_without_error() {
    let iperf3 = Server::iperf3();
    let drained = Drained::start(iperf3.tcp, LONG);
    let port = drained.tcp.port().to_string();
    // It tells its two streams apart by which came first, and workers that accept in the same instant may swap them.
    let in_order = Setup::proxy(&iperf3.tcp.to_string(), "").workers(1).start();
    let port_in_order = in_order.address().rsplit(':').next().unwrap().to_owned();
    for options in [&[][..], &["-R"], &["-P", "8"], &["--bidir"], &["-R", "-l", "100"]] {
        let port = if options == ["--bidir"] { &port_in_order } else { &port };
        let common = ["-c", "127.0.0.1", "-p", port, "-t", "1", "-J"];
        let report = run("iperf3", common.iter().chain(options)).success();
        let report: Value = serde_json::from_str(&report).unwrap();
        assert!(report.get("error").is_none(), "{options:?}: {report}");
        for sum in ["sum_sent", "sum_received"] {
            let bytes = report["end"][sum]["bytes"].as_u64().unwrap();
            assert!(bytes > 1 << 20, "{options:?}: {sum} has {bytes} bytes");
        }
    }
    drained.stop();
    in_order.stop();
}
