//! What the gateway adds to a `tools/call`: the same call on the server's own pipes, through `run_single`, and
//! through `run_gateway`, interleaved in one run. The server is a thread that answers at once, so the figures
//! are the cost of the way alone.
//!
//! `cargo run --release -p palisade-gateway --example latency [calls]`

use std::error::Error;
use std::io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Write as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use palisade_gateway::{
    CancellationToken, Context, Ending, ExitReport, ExitStatus, Launch, LaunchError, Launched, ServerEntry,
    ServerProcess, Transport, audit, run_gateway, run_single,
};
use tokio::net::unix::pipe;

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Answers every request with the same result; the id is the text after `"id":` up to the next comma.
fn answer(mut input: BufReader<PipeReader>, mut output: PipeWriter) -> io::Result<()> {
    let mut line = String::new();
    while input.read_line(&mut line)? > 0 {
        let id = line.split_once("\"id\":").and_then(|(_, rest)| rest.split([',', '}']).next());
        let result = if line.contains("\"initialize\"") {
            r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}"#
        } else {
            r#"{"content":[{"type":"text","text":"a short answer, as most tools give"}],"isError":false}"#
        };
        if let Some(id) = id {
            output
                .write_all(format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n").as_bytes())?;
        }
        line.clear();
    }
    Ok(())
}

struct Thread;

struct ThreadProcess(PipeReader);

impl Launch for Thread {
    fn launch(&self) -> Result<Launched, LaunchError> {
        launch().map_err(|error| LaunchError::new("no pipes").with_source(error))
    }
}

fn launch() -> io::Result<Launched> {
    let (input, stdin) = io::pipe()?;
    let (stdout, output) = io::pipe()?;
    let (stderr, errors) = io::pipe()?;
    let (notice, ended) = io::pipe()?;
    std::thread::spawn(move || {
        let answered = answer(BufReader::new(input), output);
        drop((errors, ended));
        answered
    });
    Ok(Launched {
        stdin: OwnedFd::from(stdin),
        stdout: OwnedFd::from(stdout),
        stderr: OwnedFd::from(stderr),
        process: Box::new(ThreadProcess(notice)),
        facts: serde_json::Value::Null,
    })
}

impl ServerProcess for ThreadProcess {
    fn exit_notice(&self) -> io::Result<OwnedFd> {
        self.0.try_clone().map(OwnedFd::from)
    }

    fn stop(&mut self) -> ExitReport {
        self.wait()
    }

    fn wait(&mut self) -> ExitReport {
        ExitReport { status: ExitStatus::Code(0), ending: Ending::Itself }
    }
}

/// A client's blocking ends of two pipes.
struct Client {
    to: PipeWriter,
    from: BufReader<PipeReader>,
    tool: &'static str,
    line: String,
    times: Vec<Duration>,
}

impl Client {
    fn new(to: PipeWriter, from: PipeReader, tool: &'static str) -> Self {
        Client { to, from: BufReader::new(from), tool, line: String::new(), times: Vec::new() }
    }

    fn ask(&mut self, message: &str) -> io::Result<()> {
        self.to.write_all(message.as_bytes())?;
        self.line.clear();
        self.from.read_line(&mut self.line)?;
        if self.line.contains("\"result\"") { Ok(()) } else { Err(io::Error::other(self.line.clone())) }
    }

    fn initialize(&mut self) -> io::Result<()> {
        let params =
            r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}"#;
        self.ask(&format!("{{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":{params}}}\n"))
    }

    fn call(&mut self, id: u32) -> io::Result<()> {
        let params =
            format!("{{\"name\":\"{}\",\"arguments\":{{\"path\":\"/workspace/README.md\"}}}}", self.tool);
        let message =
            format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/call\",\"params\":{params}}}\n");
        let since = Instant::now();
        self.ask(&message)?;
        self.times.push(since.elapsed());
        Ok(())
    }

    fn quantile(&mut self, percent: usize) -> Duration {
        self.times.sort_unstable();
        let at = self.times.len().saturating_mul(percent).checked_div(100).unwrap_or(0);
        self.times.get(at).copied().unwrap_or_default()
    }
}

fn entry() -> Fallible<ServerEntry> {
    let text = "palisade: 1\nserver: s\nimage: { reference: none, unsigned: a measurement }\n";
    let policy = Arc::new(palisade_policy::parse("latency.yaml", text)?);
    Ok(ServerEntry { policy, launch: Arc::new(Thread) })
}

fn context() -> Fallible<Context> {
    let audit = Arc::new(audit::Log::append_to(tempfile::tempfile()?));
    Ok(Context { audit, shutdown: CancellationToken::new() })
}

/// Runs a gateway on a thread with a runtime of its own, as the binary does.
fn behind(tool: &'static str) -> Fallible<Client> {
    let (gateway_in, to) = io::pipe()?;
    let (from, gateway_out) = io::pipe()?;
    let (entry, context) = (entry()?, context()?);
    std::thread::spawn(move || -> Fallible<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let input = pipe::Receiver::from_owned_fd(gateway_in.into())?;
            let output = pipe::Sender::from_owned_fd(gateway_out.into())?;
            if tool.contains("__") {
                let transport = Transport::Stdio { input: Box::new(input), output: Box::new(output) };
                run_gateway(vec![entry], transport, context).await?;
            } else {
                run_single(entry, (input, output), context).await?;
            }
            Ok(())
        })
    });
    Ok(Client::new(to, from, tool))
}

fn direct() -> Fallible<Client> {
    let (input, to) = io::pipe()?;
    let (from, output) = io::pipe()?;
    std::thread::spawn(move || answer(BufReader::new(input), output));
    Ok(Client::new(to, from, "t"))
}

fn main() -> Fallible<()> {
    let calls: u32 = std::env::args().nth(1).map_or(Ok(5000), |calls| calls.parse())?;
    let mut ways = [("direct", direct()?), ("run", behind("t")?), ("gateway", behind("s__t")?)];
    for (_, client) in &mut ways {
        client.initialize()?;
    }
    for id in 1..=calls {
        for (_, client) in &mut ways {
            client.call(id)?;
        }
    }
    let mut out = io::stdout().lock();
    let [(_, direct), ..] = &mut ways;
    let baseline = direct.quantile(50);
    for (name, client) in &mut ways {
        let (median, tail) = (client.quantile(50), client.quantile(99));
        let added = median.saturating_sub(baseline);
        writeln!(out, "{name:8} median {median:?}  p99 {tail:?}  added at the median {added:?}")?;
    }
    Ok(())
}
