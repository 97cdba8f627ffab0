//! loadgen: the benchmark's clients. Each reads (or writes) files as unmodified programs do, checks
//! every byte it reads, and prints one JSON object on standard output.
//!
//! | subcommand | stands for |
//! |---|---|
//! | `generate` | nothing: it writes the data set that the others read |
//! | `seq` | checkpoints and shards read from beginning to end |
//! | `small` | a training epoch's samples: images, or ranges of tar shards |
//! | `rand4k` | lookups in an index or a table |
//! | `mmap` | weights loaded by safetensors |
//! | `get`, `put` | the lake itself, without a file system: what is there to be had |
//! | `train` | a training run: data loader and accelerator |
//! | `walk` | find, ls -lR, the start of every data loader |
//! | `ckpt` | a checkpoint being saved, call by call as torch and safetensors save it |
//! | `create` | logs, metrics and small shards of a checkpoint |
//! | `first` | whoever waits for a mount |
//!
//! Exit codes: 2 usage, 3 wrong bytes, 4 a missing file, an I/O error, a server's refusal.

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use loadgen::dataset::DataSet;
use loadgen::failure::Failure;
use loadgen::{
    checkpoint, create, first, generate, get, input, mapped, put, random, sequential, small, train,
    walk,
};

/// The benchmark's clients: they read as ordinary programs do, check every byte, and print one JSON object
///
/// Times are seconds of the monotonic clock from the common start of all threads to the end of
/// the last; expected hashes are computed before. SIZE is a number of bytes, or 64K, 1M, 2G.
/// Exit codes: 2 usage, 3 wrong bytes, 4 a missing file, an I/O error or a server's refusal.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    data: DataSet,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a data set: lines SIZE<TAB>PATH on standard input
    Generate(generate::Options),
    /// Read files from beginning to end, one thread each
    Seq(sequential::Options),
    /// Read small samples: lines SIZE<TAB>PATH, or PATH, or OFFSET<TAB>LENGTH<TAB>PATH of shards
    Small(small::Options),
    /// Read random 4 KiB pages of one file
    Rand4k(random::Options),
    /// Read the tensors of safetensors files through a mapping, in random order
    Mmap(mapped::Options),
    /// Fetch objects by presigned URLs: lines SIZE<TAB>PATH<TAB>URL
    Get(get::Options),
    /// Send objects or parts: lines SIZE<TAB>PATH<TAB>URL or SIZE<TAB>OFFSET<TAB>PATH<TAB>URL
    Put(put::Options),
    /// Train one epoch on samples, as `small` reads them, with an accelerator that sleeps
    Train(train::Options),
    /// Walk a tree
    Walk(walk::Options),
    /// Save a checkpoint with the calls of its framework: lines SIZE<TAB>PATH
    Ckpt(checkpoint::Options),
    /// Create, write and close small files: lines SIZE<TAB>PATH
    Create(create::Options),
    /// Wait until a file can be opened, and read it
    First(first::Options),
}

fn main() -> ExitCode {
    // A thread that panics would leave the others waiting for it.
    let shows = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        shows(panic);
        std::process::exit(101);
    }));
    let cli = Cli::parse();
    match run(&cli) {
        Ok(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("loadgen: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<serde_json::Value, Failure> {
    let data = &cli.data;
    match &cli.command {
        Command::Generate(options) => generate::run(data, options, &input::standard_input()?),
        Command::Seq(options) => sequential::run(data, options),
        Command::Small(options) if options.passes => {
            small::run_passes(data, options, io::stdin().lock(), |result| println!("{result}"))
        }
        Command::Small(options) => small::run(data, options, &input::standard_input()?),
        Command::Rand4k(options) => random::run(data, options),
        Command::Mmap(options) => mapped::run(data, options),
        Command::Get(options) => get::run(data, options, &input::standard_input()?),
        Command::Put(options) => put::run(data, options, &input::standard_input()?),
        Command::Train(options) => train::run(data, options, &input::standard_input()?),
        Command::Walk(options) => walk::run(data, options),
        Command::Ckpt(options) => checkpoint::run(data, options, &input::standard_input()?),
        Command::Create(options) => create::run(data, options, &input::standard_input()?),
        Command::First(options) => first::run(data, options),
    }
}
