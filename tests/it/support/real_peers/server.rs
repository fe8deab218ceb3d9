//! The servers, each with a configuration and data of its own.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::client::run;
use super::{BOUND, free_address, text, wait_for};
use crate::support::scratch::Scratch;

/// A server on a TCP address and, if it can, on a UNIX socket.
pub struct Server {
    // The order of the fields: first it ends, then its directory goes.
    process: Contained,
    pub directory: Scratch,
    pub tcp: SocketAddr,
    pub unix: Option<PathBuf>,
}

impl Server {
    /// nginx for the files of the folder `www`.
    pub fn nginx() -> Server {
        let (directory, tcp) = (Scratch::new(), free_address());
        let (root, socket) = (text(&directory.path("")), directory.path("socket"));
        fs::create_dir(directory.path("www")).unwrap();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {root}/{name};"))
            .concat();
        let config = format!(
            "daemon off; user root; worker_processes 1; pid {root}/pid; error_log stderr warn;
             events {{ worker_connections 4096; }}
             http {{ access_log off; {temporary} root {root}/www; keepalive_requests 1000000000;
                     server {{ listen {tcp}; listen unix:{}; }} }}",
            text(&socket)
        );
        fs::write(directory.path("nginx.conf"), config).unwrap();
        let config = text(&directory.path("nginx.conf"));
        let process = Contained::start(&directory, ["nginx", "-e", "stderr", "-c", &config]);
        Server { process, directory, tcp, unix: Some(socket) }.ready()
    }

    pub fn redis() -> Server {
        let (directory, tcp) = (Scratch::new(), free_address());
        let socket = directory.path("socket");
        let (port, path) = (tcp.port().to_string(), text(&socket));
        let address = ["redis-server", "--bind", "127.0.0.1", "--port", &port, "--unixsocket", &path];
        let rest = ["--save", "", "--appendonly", "no", "--enable-debug-command", "yes"];
        let process = Contained::start(&directory, address.into_iter().chain(rest));
        Server { process, directory, tcp, unix: Some(socket) }.ready()
    }

    /// PostgreSQL with the super user `postgres`, who needs no password.
    pub fn postgres() -> Server {
        let (directory, tcp) = (Scratch::new(), free_address());
        let data = text(&directory.path("data"));
        fs::create_dir(&data).unwrap();
        run("chown", ["postgres:postgres", &data]).success();
        let program = |name| text(&postgres_program(name));
        let user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"];
        let (init, daemon) = (program("initdb"), program("postgres"));
        let options = [&init, "--pgdata", &data, "--auth=trust", "--no-sync", "--locale=C.UTF-8"];
        run(user[0], user[1..].iter().copied().chain(options)).success();
        let port = tcp.port().to_string();
        let options = [&daemon, "-D", &data, "-h", "127.0.0.1", "-p", &port, "-k", &data, "-c", "fsync=off"];
        let process = Contained::start(&directory, user.into_iter().chain(options));
        let socket = directory.path("data").join(format!(".s.PGSQL.{port}"));
        let server = Server { process, directory, tcp, unix: Some(socket) }.ready();
        // It takes connections before it serves them.
        let asked = ["-q", "-h", "127.0.0.1", "-p", &port];
        wait_for("PostgreSQL that serves", BOUND, || {
            run(&program("pg_isready"), asked).status.success().then_some(())
        });
        server
    }

    /// sshd for root with the key in the file `key`, which is also its host key.
    pub fn sshd() -> Server {
        let (directory, tcp) = (Scratch::new(), free_address());
        let key = text(&directory.path("key"));
        run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", &key]).success();
        let config = format!(
            "ListenAddress {tcp}\nHostKey {key}\nAuthorizedKeysFile {key}.pub\nPermitRootLogin yes\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPrintMotd no\nSubsystem sftp internal-sftp\n"
        );
        fs::write(directory.path("config"), config).unwrap();
        let config = text(&directory.path("config"));
        let process = Contained::start(&directory, ["/usr/sbin/sshd", "-D", "-e", "-f", &config]);
        Server { process, directory, tcp, unix: None }.ready()
    }

    pub fn iperf3() -> Server {
        let (directory, tcp) = (Scratch::new(), free_address());
        let port = tcp.port().to_string();
        let options = ["iperf3", "-s", "--forceflush", "-B", "127.0.0.1", "-p", &port];
        let mut process = Contained::start(&directory, options);
        // A connection to look whether it listens would pass for the next test.
        wait_for("iperf3 that listens", BOUND, || {
            process.assert_running();
            fs::read_to_string(&process.log).unwrap().contains("Server listening").then_some(())
        });
        Server { process, directory, tcp, unix: None }
    }

    /// The address of its UNIX socket as drained's configuration has it.
    pub fn unix_address(&self) -> String {
        format!("unix:{}", text(self.unix.as_ref().expect("this server has a UNIX socket")))
    }

    fn ready(mut self) -> Server {
        let Server { process, tcp, unix, .. } = &mut self;
        wait_for("server that takes connections", BOUND, || {
            process.assert_running();
            let on_unix = unix.as_ref().is_none_or(|path| UnixStream::connect(path).is_ok());
            (on_unix && TcpStream::connect(*tcp).is_ok()).then_some(())
        });
        self
    }
}

/// A program of the newest PostgreSQL here: Debian keeps them out of the path.
pub fn postgres_program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest = versions.map(|entry| entry.unwrap().path()).max_by_key(|path| version(path));
    newest.expect("PostgreSQL is installed").join("bin").join(name)
}

fn version(path: &Path) -> u32 {
    path.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or_default()
}

/// A server in a process namespace that ends with it or with the test's thread, so that no child of
/// the server is left behind. Its /run and /var/log are empty and its own.
struct Contained {
    child: Child,
    log: PathBuf,
}

/// The shell stays process 1, which a server should not be. sshd wants its /run/sshd.
const START: &str =
    "mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /var/log; mkdir /run/sshd; \"$@\" & wait";

impl Contained {
    fn start<'a>(directory: &Scratch, command: impl IntoIterator<Item = &'a str>) -> Contained {
        let log = directory.path("log");
        let output = File::create(&log).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"])
            .args(["--mount-proc", "sh", "-euc", START, "sh"])
            .args(command)
            .current_dir(directory.path(""))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .expect("setpriv (util-linux) starts");
        Contained { child, log }
    }

    fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the server ended with {status}:\n{}", fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        // The end of process 1 is the end of all, and waits for it; that of unshare(1) does not.
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        match fs::read_to_string(path).unwrap_or_default().trim().parse() {
            Ok(first) => drop(kill(Pid::from_raw(first), Signal::SIGKILL)),
            Err(_) => drop(self.child.kill()),
        }
        let _ = self.child.wait();
    }
}
