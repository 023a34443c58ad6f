//! Checkpoints (<https://c2sp.org/tlog-checkpoint>): origin, size and root of a tree as the text of a signed note.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::note::{self, NoteError, Signer, Verifier};
use crate::tree::Hash;

/// What a tree was at some size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which tree: `primalcore/<prefix><collection>/<partition>/<life>`.
    pub origin: String,
    /// How many leaves it had.
    pub size: u64,
    /// Its root then.
    pub root: Hash,
}

/// A hash as the text of proofs and of what is stored.
pub fn base64(hash: &[u8]) -> String {
    BASE64.encode(hash)
}

/// Reads what [`base64`] writes.
pub fn unbase64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text).ok()
}

/// A hash from its text.
pub fn hash(text: &str) -> Option<Hash> {
    unbase64(text)?.try_into().ok()
}

impl Checkpoint {
    /// As a signed note.
    pub fn sign(&self, signer: &Signer) -> String {
        signer.sign(&format!("{}\n{}\n{}\n", self.origin, self.size, base64(&self.root)))
    }

    /// From a note that one of the keys has signed, and which.
    ///
    /// # Errors
    /// It is no such note, or not about a tree.
    pub fn open<'k>(note: &str, keys: &'k [Verifier]) -> Result<(Self, &'k Verifier), NoteError> {
        let (text, key) = note::open(note, keys)?;
        Ok((Checkpoint::read(text).ok_or(NoteError::Malformed("its text is no checkpoint"))?, key))
    }

    /// What a note says, without asking who signed it.
    pub fn unverified(note: &str) -> Option<Self> {
        Checkpoint::read(note.rfind("\n\n").and_then(|at| note.get(..=at))?)
    }

    fn read(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        // Further lines may be there; they say nothing to us.
        let is_plain = size.bytes().all(|byte| byte.is_ascii_digit()) && (size == "0" || !size.starts_with('0'));
        if origin.is_empty() || !is_plain || lines.any(str::is_empty) {
            return None;
        }
        Some(Checkpoint { origin: origin.to_owned(), size: size.parse().ok()?, root: hash(root)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_back_from_its_note() {
        let signer = Signer::generate("hub").unwrap();
        let keys = [signer.verifier().clone()];
        let checkpoint = Checkpoint { origin: "primalcore/flights/0/0".to_owned(), size: 20, root: [7; 32] };
        let note = checkpoint.sign(&signer);
        assert!(note.starts_with("primalcore/flights/0/0\n20\nBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=\n\n— hub "));
        assert_eq!(Checkpoint::open(&note, &keys).unwrap(), (checkpoint.clone(), &keys[0]));
        assert_eq!(Checkpoint::unverified(&note), Some(checkpoint));
        let root = base64(&[0; 32]);
        assert!(Checkpoint::open(&signer.sign(&format!("a\n1\n{root}\nmore\n")), &keys).is_ok());
        for text in [
            "a\n1\n",
            "a\n01\nR\n",
            "\n1\nR\n",
            "a\n-1\nR\n",
            "a\n+1\nR\n",
            "a\n\nR\n",
            "a\n1\nQQ==\n",
            "a\n1\nR\n\nx\n",
        ] {
            let note = signer.sign(&text.replace('R', &root));
            assert!(Checkpoint::open(&note, &keys).is_err(), "{text:?}");
        }
    }

    /// The example of the specification has a body that is read as it stands.
    #[test]
    fn the_example_of_the_specification_is_read() {
        let note = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
            — example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n";
        let read = Checkpoint::unverified(note).unwrap();
        assert_eq!((read.origin.as_str(), read.size), ("example.com/behind-the-sofa", 20_852_163));
    }
}
