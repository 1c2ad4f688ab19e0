//! Malicious databases. They are also the corpus of the fuzz target `database`
//! (`tests/fuzz/corpus/make.py`).

use std::fs;
use std::path::Path;

use tvix_tests::local::LocalWorld;
use tvix_tests::program::{Ended, run, tvix};

const ONE: &str = "/nix/store/00bgd045z0d4icpbc2yyz4gx48ak44la-one";
/// A path that none of them contains.
const MISSING: &str = "/nix/store/02bgd045z0d4icpbc2yyz4gx48ak44la-missing";

/// A store with a malicious database, which is only read.
struct Hostile(LocalWorld);

impl Hostile {
    async fn new(name: &str) -> Self {
        let world = LocalWorld::new().await;
        let database = world.beside("hostile/nix/var/nix/db");
        fs::create_dir_all(&database).unwrap();
        fs::create_dir_all(world.beside("hostile/nix/store")).unwrap();
        fs::write(database.join("schema"), "10").unwrap();
        fs::write(database.join("ca-schema"), "3").unwrap();
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/database");
        // A first byte of this value means that a complete file follows.
        let file = fs::read(corpus.join(name)).unwrap();
        fs::write(database.join("db.sqlite"), &file[1..]).unwrap();
        Self(world)
    }

    fn store(&self, arguments: &[&str]) -> Ended {
        let mut command = tvix_tests::program::command(tvix());
        command.arg("store").args(arguments).arg("--store");
        let ended = run(command.arg(self.0.beside("hostile")));
        assert!(!ended.err.contains("panicked"), "{}", ended.err);
        ended
    }
}

/// All commands that read the complete database or look up a path.
const COMMANDS: [&[&str]; 5] = [
    &["path-info"],
    &["path-info", ONE],
    &["verify", "--no-contents"],
    &["gc", "--print-dead"],
    &["roots"],
];

/// Without `distrust::check`, another limit ends the query (of views, or of the size of rows in
/// `distrust::Room`), or a computed value is returned.
#[tokio::test]
async fn that_are_computed() {
    for name in ["computed-for-ever", "computed-large", "computed-elsewhere"] {
        let hostile = Hostile::new(name).await;
        for command in COMMANDS {
            let ended = hostile.store(command).expect(1);
            ended.says(&["db.sqlite", "not the database of a store", "ValidPaths"]);
        }
    }
}

/// Without `distrust::Reader`, a look-up of a missing path does not terminate. Without
/// `distrust::Room`, rows accumulate until `Reader` reaches its limit.
#[tokio::test]
async fn whose_pages_lead_to_the_same_pages() {
    let hostile = Hostile::new("same-pages-again").await;
    for (command, problem) in [
        (COMMANDS[0], "more rows than it has room for"),
        (COMMANDS[2], "2nd reference to page"),
        (COMMANDS[3], "more rows than it has room for"),
        (&["path-info", MISSING], "reading it takes no end"),
    ] {
        let ended = hostile.store(command).expect(1);
        ended.says(&["db.sqlite", "damaged", problem]);
    }
}

/// Without the limit in `distrust::restrict`, rows of any length are read.
#[tokio::test]
async fn whose_rows_are_long() {
    let hostile = Hostile::new("good").await;
    let file = hostile.0.beside("hostile/nix/var/nix/db/db.sqlite");
    let database = rusqlite::Connection::open(file).unwrap();
    let update = "update ValidPaths set sigs = 'cache-1:' || printf('%.*c', 2000000, 'A')";
    database.execute(update, []).unwrap();
    drop(database);
    let ended = hostile.store(&["path-info", ONE]).expect(1);
    ended.says(&["db.sqlite", "too big"]);
}

#[tokio::test]
async fn whose_rows_are_something_else() {
    for name in ["wrong-types", "not-utf-8"] {
        let hostile = Hostile::new(name).await;
        let ended = hostile.store(&["path-info", ONE]).expect(1);
        ended.says(&["db.sqlite", ONE]);
    }
}
