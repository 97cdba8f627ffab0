//! The readers and the writer of files: right bytes pass, any wrong one is found and named.

mod support;

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use loadgen::content::Content;
use support::{Fixture, SEED};

const MANY: &str = "0\tempty\n1\ta/one\n110000\ta/b/110k\n3000001\tc/large\n";

#[test]
fn generated_files_have_the_content_and_the_sizes_asked_for() {
    let fixture = Fixture::new();
    let result = fixture.succeeds(&["generate", "--threads", "3"], MANY);
    assert_eq!(result["files"], 4);
    assert_eq!(result["bytes"], 3_110_002);
    for (name, size) in [("empty", 0), ("a/one", 1), ("a/b/110k", 110_000), ("c/large", 3_000_001)]
    {
        let content = Content::of(SEED, name.as_bytes(), size).unwrap();
        assert_eq!(fixture.bytes(name), content.bytes(0, size as usize));
    }
}

#[test]
fn seq_reads_each_path_to_its_end() {
    let fixture = Fixture::with(MANY);
    for block in ["1M", "4096", "300000", "1000003"] {
        let arguments = ["seq", "--block", block, "c/large", "a/b/110k", "empty"];
        let result = fixture.succeeds(&arguments, "");
        assert_eq!(result["bytes"], 3_110_001);
        assert_eq!(result["per_thread"].as_array().unwrap().len(), 3);
        assert_eq!(result["per_thread"][1]["bytes"], 110_000);
    }
}

#[test]
fn seq_finds_a_flipped_byte_wherever_it_is() {
    for offset in [0, 1_234_567, 3_000_000] {
        let fixture = Fixture::with(MANY);
        fixture.flip("c/large", offset);
        let message = format!("c/large: wrong byte at offset {offset}\n");
        fixture.fails(3, &message, &["seq", "a/b/110k", "c/large"], "");
        fixture.succeeds(&["seq", "--no-check", "a/b/110k", "c/large"], "");
    }
}

#[test]
fn seq_finds_another_length() {
    let fixture = Fixture::with("2097152\tf\n");
    let arguments = ["seq", "--size", "2M", "f"];
    fixture.succeeds(&arguments, "");
    for (size, message) in [
        (2_097_153, "f: goes on beyond offset 2097152"),
        (4_000_000, "f: goes on beyond offset 2097152"),
        (2_000_000, "f: ends at offset 2000000, and should have 2097152 bytes"),
        (1_048_576, "f: ends at offset 1048576"),
        (0, "f: ends at offset 0"),
    ] {
        fixture.resize("f", size);
        fixture.fails(3, message, &arguments, "");
    }
}

const SMALL: &str = "110000\ts/0\n110001\ts/1\n5\ts/2\n0\ts/3\n70000\ts/4\n";

#[test]
fn small_reads_every_line_once() {
    let fixture = Fixture::with(SMALL);
    for readers in ["1", "2", "7"] {
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        let arguments = ["small", "--readers", readers, "--times"];
        let result = fixture.succeeds(&arguments, SMALL);
        let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
        assert_eq!(result["files"], 5);
        assert_eq!(result["bytes"], 290_006);
        let times = result["times"].as_array().unwrap();
        let mut lines: Vec<_> = times.iter().map(|time| time[0].as_u64().unwrap()).collect();
        lines.sort_unstable();
        assert_eq!(lines, [0, 1, 2, 3, 4]);
        for time in times {
            let (begin, taken) = (time[1].as_u64().unwrap(), time[2].as_u64().unwrap());
            assert!(before <= begin && taken > 0 && begin + taken <= after);
        }
        assert!(result["latency_us"]["p99"].as_f64().unwrap() > 0.0);
    }
    let bare = fixture.succeeds(&["small"], "s/1\ns/2\n");
    assert_eq!(bare["bytes"], 110_006);
    assert!(bare.get("times").is_none());
}

#[test]
fn small_stops_at_its_limit() {
    let fixture = Fixture::with(SMALL);
    assert_eq!(fixture.succeeds(&["small", "--limit-s", "0"], SMALL)["files"], 0);
}

#[test]
fn small_keeps_to_its_rate() {
    let fixture = Fixture::with(SMALL);
    for mode in ["files", "ranges"] {
        let lines = if mode == "files" { SMALL } else { "0\t1\ts/0\n1\t1\ts/0\n2\t1\ts/0\n" };
        let last = lines.lines().count() - 1;
        let arguments = ["small", "--mode", mode, "--readers", "2", "--rate", "50", "--times"];
        let result = fixture.succeeds(&arguments, lines);
        let times = result["times"].as_array().unwrap();
        let begin_ns =
            |line: usize| times.iter().find(|time| time[0] == line).unwrap()[1].as_u64().unwrap();
        // Nothing is begun early; how late the first one was nobody knows.
        assert!(result["seconds"].as_f64().unwrap() >= last as f64 / 50.0);
        assert!(begin_ns(last) > begin_ns(0));
    }
    let limited = fixture.succeeds(&["small", "--rate", "5", "--limit-s", "0.3"], SMALL);
    assert!((1..=2).contains(&limited["files"].as_u64().unwrap()));
    for rate in ["0", "-1", "nan"] {
        fixture.fails(2, "", &["small", &format!("--rate={rate}")], SMALL);
    }
}

#[test]
fn small_reads_pass_after_pass() {
    let fixture = Fixture::with(SMALL);
    let passes = "\t\n110000\ts/0\n5\ts/2\n\n0\t\n5\ts/2\n\n3.5\t1000\n70000\ts/4\n\n";
    let output = fixture.run(&["small", "--passes"], passes);
    let answers: Vec<serde_json::Value> = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let files: Vec<_> = answers[..3].iter().map(|answer| answer["files"].as_u64()).collect();
    assert_eq!(files, [Some(2), Some(0), Some(1)]);
    assert_eq!(answers[3], serde_json::json!({ "passes": 3 }));
    fixture.flip("s/4", 0);
    let output =
        fixture.run(&["small", "--passes"], "\t\n5\ts/2\n\n\t\n70000\ts/4\n\n\t\n5\ts/2\n\n");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 1);
    fixture.fails(2, "no number", &["small", "--passes"], "5\ts/2\n\n");
}

#[test]
fn small_finds_a_flipped_byte_and_another_length() {
    let fixture = Fixture::with(SMALL);
    fixture.flip("s/4", 69_999);
    let arguments = ["small", "--readers", "2"];
    fixture.fails(3, "s/4: wrong byte at offset 69999\n", &arguments, SMALL);
    for (size, message) in [(6, "s/2: goes on beyond offset 5"), (4, "s/2: ends at offset 4")] {
        fixture.resize("s/2", size);
        fixture.fails(3, message, &arguments, "5\ts/2\n");
    }
}

#[test]
fn ranges_of_more_shards_than_stay_open_are_read_and_checked() {
    let shards = 70;
    let lines: String = (0..shards).map(|n| format!("20000\tshard-{n}.tar\n")).collect();
    let fixture = Fixture::with(&lines);
    let range = |n: usize| format!("{}\t1000\tshard-{}.tar\n", n * 37 % 19_000, n * 13 % shards);
    let samples: String = (0..500).map(range).collect();
    let arguments = ["small", "--mode", "ranges", "--readers", "2"];
    let result = fixture.succeeds(&arguments, &samples);
    assert_eq!(result["files"], 500);
    assert_eq!(result["bytes"], 500_000);
    fixture.flip("shard-9.tar", 10_500);
    let message = "shard-9.tar: wrong byte at offset 10500\n";
    fixture.fails(3, message, &arguments, "10000\t1000\tshard-9.tar\n");
    fixture.succeeds(&arguments, "10000\t500\tshard-9.tar\n10501\t500\tshard-9.tar\n");
    let message = "shard-1.tar: ends at offset 20000";
    fixture.fails(3, message, &arguments, "19500\t1000\tshard-1.tar\n");
}

#[test]
fn an_accelerator_that_never_waits_is_utilised_and_one_that_always_does_is_not() {
    let lines: String = (0..40).map(|n| format!("1000\ts/{n}\n")).collect();
    let fixture = Fixture::with(&lines);
    let train = |step| {
        let arguments = ["train", "--workers", "3", "--batch", "2", "--step-ms", step];
        let result = fixture.succeeds(&arguments, &lines);
        assert_eq!((&result["batches"], &result["samples"]), (&20.into(), &40.into()));
        assert_eq!(result["bytes"], 40_000);
        let of = |name: &str| result[name].as_f64().unwrap();
        let parts = of("computed_s") + of("waited_s");
        assert!((of("seconds") - parts).abs() < 0.1 * parts + 0.001, "{result}");
        of("computed_s") / of("seconds")
    };
    assert!(train("20") > 0.9);
    assert!(train("0.001") < 0.5);
}

#[test]
fn train_reads_whole_batches_of_ranges_and_finds_a_flipped_byte() {
    let fixture = Fixture::with("20000\tshard\n");
    let lines: String = (0..19).map(|n| format!("{}\t1000\tshard\n", n * 1000)).collect();
    let arguments = ["train", "--mode", "ranges", "--batch", "4", "--step-ms", "1"];
    // The last three samples are no batch.
    assert_eq!(fixture.succeeds(&arguments, &lines)["samples"], 16);
    fixture.flip("shard", 17_500);
    fixture.succeeds(&arguments, &lines);
    fixture.flip("shard", 9_500);
    fixture.fails(3, "shard: wrong byte at offset 9500\n", &arguments, &lines);
}

#[test]
fn train_stops_at_its_limit() {
    let lines: String = (0..40).map(|n| format!("1000\ts/{n}\n")).collect();
    let fixture = Fixture::with(&lines);
    let arguments = ["train", "--batch", "1", "--step-ms", "100", "--limit-s", "0.15"];
    // A step is begun before the limit, or not at all: one that is late is one less.
    let batches = fixture.succeeds(&arguments, &lines)["batches"].as_u64().unwrap();
    assert!((1..=2).contains(&batches));
}

#[test]
fn rand4k_reads_as_often_as_asked_and_finds_a_flipped_byte() {
    let fixture = Fixture::with("1048577\ttable\n");
    let arguments = ["rand4k", "--readers", "3", "--count", "1000", "table"];
    assert_eq!(fixture.succeeds(&arguments, "")["reads"], 1000);
    let timed = fixture.succeeds(&["rand4k", "--seconds", "0.05", "--warm", "table"], "");
    assert!(timed["iops"].as_f64().unwrap() > 0.0);
    fixture.flip("table", 500_000);
    // 5,000 reads of 256 pages miss one of them with a probability of 3e-9.
    let many = ["rand4k", "--count", "5000", "table"];
    fixture.fails(3, "table: wrong byte at offset 500000\n", &many, "");
    let warm = ["rand4k", "--count", "0", "--warm", "table"];
    fixture.fails(3, "table: wrong byte at offset 500000\n", &warm, "");
    fixture.fails(2, "required", &["rand4k", "table"], "");
}

const MODELS: &str = "30000000\tm/1.safetensors\n100000\tm/2.safetensors\n";

#[test]
fn mmap_reads_every_tensor() {
    let fixture = Fixture::with(MODELS);
    for order in ["1", "2"] {
        let arguments = ["mmap", "--order-seed", order, "m/1.safetensors", "m/2.safetensors"];
        let result = fixture.succeeds(&arguments, "");
        assert_eq!(result["bytes"], 30_100_000);
        assert!(result["first_tensor_s"].as_f64() <= result["seconds"].as_f64());
    }
}

#[test]
fn mmap_finds_a_flipped_byte_in_header_and_tensors_and_another_length() {
    for offset in [0, 20, 400_000, 29_999_999] {
        let fixture = Fixture::with(MODELS);
        fixture.flip("m/1.safetensors", offset);
        let message = format!("m/1.safetensors: wrong byte at offset {offset}\n");
        fixture.fails(3, &message, &["mmap", "m/2.safetensors", "m/1.safetensors"], "");
    }
    let fixture = Fixture::with(MODELS);
    fixture.resize("m/2.safetensors", 99_996);
    let arguments = ["mmap", "--size", "100000", "m/2.safetensors"];
    fixture.fails(3, "m/2.safetensors: ends at offset 99996", &arguments, "");
}

#[test]
fn walk_counts_what_is_there() {
    let fixture = Fixture::with(MANY);
    let names = fixture.succeeds(&["walk"], "");
    assert_eq!((&names["entries"], &names["directories"]), (&7.into(), &4.into()));
    let stats = fixture.succeeds(&["walk", "--stat", "a"], "");
    assert_eq!((&stats["entries"], &stats["directories"]), (&3.into(), &2.into()));
    assert_eq!(stats["bytes"], 110_001);
}

#[test]
fn what_is_missing_is_an_io_error_with_its_path() {
    let fixture = Fixture::new();
    let message = "No such file or directory";
    for arguments in [
        &["seq", "--size", "1M", "gone"] as &[&str],
        &["seq", "gone"],
        &["rand4k", "--size", "1M", "--count", "1", "gone"],
        &["mmap", "--size", "1M", "gone.safetensors"],
        &["walk", "gone"],
    ] {
        fixture.fails(4, message, arguments, "");
        fixture.fails(4, "gone", arguments, "");
    }
    fixture.fails(4, message, &["small"], "100\tgone\n");
    fixture.fails(4, message, &["small", "--mode", "ranges"], "0\t100\tgone\n");
    fs::write(fixture.path("file"), "").unwrap();
    fixture.fails(4, "file/below: ", &["generate"], "5\tfile/below\n");
}

#[test]
fn lines_that_make_no_sense_are_usage_errors() {
    let fixture = Fixture::new();
    for (arguments, line) in [
        (&["generate"] as &[&str], "100"),
        (&["generate"], "x\tname"),
        (&["generate"], "1\t../name"),
        (&["generate"], "1\t/name"),
        (&["generate"], "100\tm.safetensors"),
        (&["small", "--mode", "ranges"], "1\tname"),
        (&["small", "--mode", "ranges"], "0\t10\tm.safetensors"),
        (&["get"], "1\tname"),
        (&["get"], "1\tname\thttps://127.0.0.1/name"),
        (&["get"], "1\ta\thttp://127.0.0.1:1/a\n1\tb\thttp://127.0.0.1:2/b"),
        (&["ckpt", "--writer", "torch-dcp"], "100\tonly/.metadata"),
        (&["ckpt", "--writer", "torch-save"], ""),
        (&["ckpt", "--writer", "torch-save", "--memory", "1M"], "2M\ttwo"),
        (&["put"], "10\t11\tname\thttp://127.0.0.1:1/name"),
    ] {
        fixture.fails(2, "loadgen: ", arguments, line);
    }
}
