//! Run with `cargo run --example config_file`, or with another file: `.. --example config_file -- my.toml`.
//!
//! Environment variables come before the file: with `APP_KEEP_ALIVE_TIMEOUT=7s` the head of
//! `curl -i http://127.0.0.1:3000/` says so. With `APP_WRITE_TIMEOUT=soon` it does not start, and says what it wants.

use std::{env, error::Error, fs, io, path::PathBuf, process::ExitCode};

use axum::{Router, routing::get};
use serde::Deserialize;
use tokio::net::TcpListener;
use tower_serve::{Preset, Settings};

/// The file: the server's settings are one table in it, and the rest is the app's own.
#[derive(Deserialize)]
struct Config {
    greeting: String,
    server: Settings,
}

impl Config {
    fn load() -> Result<Self, Box<dyn Error>> {
        let default = concat!(env!("CARGO_MANIFEST_DIR"), "/config_file.toml");
        let path = env::args_os().nth(1).map_or(default.into(), PathBuf::from);
        let text =
            fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut config: Self = toml::from_str(&text)?;
        config.server = config.server.with_env("APP")?;
        Ok(config)
    }
}

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let Config { greeting, server } = match Config::load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return Ok(ExitCode::from(2));
        }
    };
    println!("{server}"); // each setting with its value
    let app = Router::new().route("/", get(|| async { greeting }));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;

    let report = Preset::new(&server).serve_axum(listener, app).await?;
    println!("{report}");
    Ok(report.exit_code())
}
