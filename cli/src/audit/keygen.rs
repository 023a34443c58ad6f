//! `primalcore audit keygen`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use primal_seal::Signer;

use crate::output::{self, remark};
use crate::{Failure, Outcome};

#[derive(Args)]
pub(crate) struct Keygen {
    /// Where the private key is written, readable by its owner only; an existing file is left as it is
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The key's name in signatures, best a name that nobody else has, such as hub.example.com/audit
    #[arg(long, value_name = "NAME", default_value = "primalcore")]
    name: String,
}

impl Keygen {
    pub(crate) fn run(self) -> Outcome {
        let signer = Signer::generate(&self.name).map_err(Failure::usage)?;
        let file = self.out.display();
        let mut options = std::fs::File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options.open(&self.out).and_then(|mut out| {
            out.write_all((signer.secret() + "\n").as_bytes())?;
            out.sync_all()
        });
        written.map_err(|error| Failure::failed(format!("{file}: {error}")))?;
        remark(&format!("the private key is in {file}; whoever checks proofs needs this line:"));
        output::line(&signer.verifier().to_string());
        Ok(())
    }
}
