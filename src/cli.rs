//! Every command and flag, once: `--help`, errors and documentation come from here.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs signed MCP servers, each in its own sandbox, behind one gateway.
#[derive(Debug, Parser)]
#[command(name = "palisade", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        help = "Where images are kept [default: $XDG_DATA_HOME/palisade]"
    )]
    pub(crate) store: Option<PathBuf>,
    /// Say more on standard error
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a server being confined: build, sign, verify, unpack, run, attack
    Demo(Demo),
    /// Run one server in its sandbox, its MCP on standard input and output
    Run(Run),
    /// Put several servers behind one MCP endpoint
    #[command(subcommand)]
    Gateway(Gateway),
    /// Import, verify, unpack, sign and list images
    #[command(subcommand)]
    Image(Image),
    /// Check policy files
    #[command(subcommand)]
    Policy(Policy),
    /// Print everything that a policy means on this host
    Explain(Explain),
    /// Say what this host can and cannot promise
    Doctor(Doctor),
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Leave the gateway running on standard input and output, for a client to talk to
    #[arg(long)]
    pub(crate) serve: bool,
}

/// What starting a server takes, whatever starts it.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// The value of a secret, from a file of mode 0600
    #[arg(long, value_name = "NAME=FILE", value_parser = name_and_value)]
    pub(crate) secret_file: Vec<(String, String)>,
    /// The value of a secret, from an environment variable of this process
    #[arg(long, value_name = "NAME=VARIABLE", value_parser = name_and_value)]
    pub(crate) secret_env: Vec<(String, String)>,
    /// Where to append the audit log [default: audit.jsonl in the store]
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_log: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The policy file
    pub(crate) policy: PathBuf,
    #[command(flatten)]
    pub(crate) start: Start,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Gateway {
    /// Serve the servers of the given policies; tools are called `server__tool`
    Run(GatewayRun),
}

#[derive(Debug, Args)]
pub(crate) struct GatewayRun {
    /// A policy file; once for each server
    #[arg(long = "policy", value_name = "FILE", required = true, num_args = 1..)]
    pub(crate) policies: Vec<PathBuf>,
    /// How clients reach the gateway
    #[arg(long, value_enum, default_value_t = Transport::Stdio)]
    pub(crate) transport: Transport,
    /// Where to listen, with `--transport http`
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8811")]
    pub(crate) listen: SocketAddr,
    /// The bearer token that clients must send, from a file of mode 0600; without it one is made and printed on
    /// standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) start: Start,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// Standard input and output
    Stdio,
    /// Streamable HTTP
    Http,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Store an OCI image layout (a directory or a tar file), every blob checked by its digest
    Import {
        /// The layout
        layout: PathBuf,
        /// The name to keep it under
        #[arg(long = "as", value_name = "NAME:TAG")]
        name: String,
    },
    /// Verify the images of policies as these ask, then unpack them; starts nothing
    Prepare {
        /// Policy files
        #[arg(required = true)]
        policies: Vec<PathBuf>,
    },
    /// Verify the image of a policy and print what was proved
    Verify {
        /// The policy file
        policy: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the images in the store
    Ls {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Remove an image, and what no other image needs
    Rm {
        /// The image
        #[arg(value_name = "NAME:TAG")]
        name: String,
    },
    /// Sign an image in the store, as `cosign sign --key` does
    Sign {
        /// The image
        #[arg(value_name = "NAME:TAG")]
        name: String,
        /// The private key
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
    },
    /// Make a key pair: FILE (mode 0600) and FILE.pub
    Keygen {
        /// The private key's file; it must not exist
        #[arg(value_name = "FILE")]
        key: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Check that policy files can be read and honoured
    Check {
        /// Policy files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print the JSON Schema of policy files, for editors
    Schema,
    /// Print the reference of policy files, in Markdown
    Reference,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The policy file
    pub(crate) policy: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.into(), value.into())),
        Some(_) | None => Err("it must be NAME=VALUE, with neither side empty".into()),
    }
}
