//! Bad input and bad machines: each is a clear error that names the culprit, with nothing lost and
//! nothing half registered.
#![allow(clippy::unwrap_used)]

mod derivations;
mod graphs;
mod machines;
mod stores;

use nix_compat::derivation::Instantiated;
use nix_compat::store_path::StorePath;
use tvix_tests::local::{LocalWorld, instantiate, shell};
use tvix_tests::program::{self, Ended, run, tvix};

/// A world in which one good derivation was built, for anything bad to spoil.
struct Before {
    world: LocalWorld,
    valid: Vec<StorePath>,
}

impl Before {
    async fn new() -> Self {
        let world = LocalWorld::new().await;
        let good = world.write(&good()).await;
        run(program::build(tvix(), &world).args(["--no-out-link", &good])).expect(0);
        let valid = world.valid().await;
        assert_eq!(valid.len(), 2);
        Self { world, valid }
    }

    /// Derivations that are put there on purpose are not news.
    async fn write(&mut self, made: &Instantiated) -> String {
        let path = self.world.write(made).await;
        self.valid = self.world.valid().await;
        path
    }

    /// `tvix build` of these, which is to fail like this. Nothing is valid that was not before,
    /// nothing was lost, and nothing lies about.
    async fn expect(&self, args: &[&str], code: i32, words: &[&str]) -> Ended {
        let mut command = program::build(tvix(), &self.world);
        let ended = run(command.arg("--no-out-link").args(args)).expect(code);
        assert_eq!(ended.out, [""; 0]);
        let ended = ended.says(words);
        assert!(ended.err.contains("error:"), "{}", ended.err);
        assert!(!ended.err.contains("panicked"), "{}", ended.err);
        self.expect_unchanged().await;
        ended
    }

    async fn expect_unchanged(&self) {
        assert_eq!(self.world.valid().await, self.valid);
        self.world.expect_clean().await;
    }
}

fn good() -> Instantiated {
    instantiate(shell("good", "echo good > $out"))
}
