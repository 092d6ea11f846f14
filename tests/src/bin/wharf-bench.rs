//! `make bench`: Wharf and Debian's containerd with runc, then the runtimes alone.
//!
//! All peers have their folders in /tmp, on the same disk.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the table and its progress")]

use anyhow::{Context as _, Result, bail};
use wharf_tests::{
    bench::{
        Engine,
        containerd::Containerd,
        daemons::{CALLERS, Peer, Plan},
        images,
        report::{Row, daemon_rows, many_rows, median, median_ms, table},
        runtimes::{self, Bundle},
        shims,
        wharf::Wharf,
    },
    host,
    image::{self, BUSYBOX, Image, Packing, Recipe},
    registry::Registry,
};

const BASE: &str = "/tmp";

const SECTIONS: [&str; 6] = ["images", "daemons", "wharf", "containerd", "shims", "runtimes"];

const HELP: &str = "\
Wharf beside Debian's containerd, runc and crun, as medians and ratios; needs root.

Usage: wharf-bench [--quick] [--only SECTION]

      --quick         few rounds of everything: to see that it runs
      --only SECTION  images, daemons, shims or runtimes; of the daemons also wharf or containerd alone
  -h, --help          this text

Examples:
  make bench                                   all of it, some twenty minutes
  make bench BENCH_ARGS='--only runtimes'      one section
";

enum Asked<'a> {
    Run { quick: bool, only: Option<&'a str> },
    Help,
}

fn parse(args: &[String]) -> Result<Asked<'_>> {
    let (mut quick, mut only) = (false, None);
    let mut args = args.iter().map(String::as_str);
    while let Some(arg) = args.next() {
        match arg {
            "--quick" => quick = true,
            "--only" => match args.next() {
                Some(name) if SECTIONS.contains(&name) => only = Some(name),
                other => bail!("--only {}: no such section", other.unwrap_or_default()),
            },
            "-h" | "--help" => return Ok(Asked::Help),
            other => bail!("unknown argument {other:?}"),
        }
    }
    Ok(Asked::Run { quick, only })
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    if let [first, program, bundle, count] = args.as_slice()
        && first == runtimes::LOOP
    {
        for nanos in runtimes::run_loop(program, bundle, count)? {
            println!("{nanos}");
        }
        return Ok(());
    }
    let (quick, only) = match parse(&args) {
        Ok(Asked::Run { quick, only }) => (quick, only),
        Ok(Asked::Help) => {
            print!("{HELP}");
            return Ok(());
        }
        Err(error) => bail!("{error}\n\n{HELP}"),
    };
    host::need_root()?;
    let plan = if quick { Plan::QUICK } else { Plan::FULL };
    let image = one_layer_image()?;
    println!("{}", machine());
    if only.is_none_or(|o| o == "images") {
        println!("{}", images::run(BASE.as_ref(), if quick { 1 } else { 5 }).await?);
    }
    if !matches!(only, Some("runtimes" | "shims" | "images")) {
        let with = |name: &str| only.is_none_or(|o| o == "daemons" || o == name);
        println!("{}", daemons(plan, &image, with("wharf"), with("containerd")).await?);
    }
    if only.is_none_or(|o| o == "shims") {
        println!("{}", shims(quick, &image)?);
    }
    if only.is_none_or(|o| o == "runtimes") {
        println!("{}", alone(plan, &image)?);
    }
    Ok(())
}

/// Busybox alone: containerd's side needs the chain id, which is the diff id of a single layer.
fn one_layer_image() -> Result<Image> {
    let mut recipe = image::busybox()?;
    recipe.layers.truncate(1);
    recipe.build(BUSYBOX)
}

/// Four layers of 16 MiB, half of it noise, so that neither network nor unpacking is free.
fn large_image() -> Result<Image> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut layers = Vec::new();
    for layer in 0..4 {
        let mut files = image::Layer::default().folder(&format!("data{layer}"), 0o755);
        for file in 0..64 {
            let mut bytes = Vec::with_capacity(256 << 10);
            while bytes.len() < 256 << 10 {
                bytes.extend(noise());
                bytes.extend(b"harbour ");
            }
            files = files.file(&format!("data{layer}/{file}"), 0o644, bytes);
        }
        layers.push(files);
    }
    let config = serde_json::json!({"Cmd": ["/none"]});
    Recipe { layers, config, packing: Packing::Gzip }.build("large:1")
}

fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cpus} CPUs, Linux {}; medians\n", release.trim())
}

async fn daemons(plan: Plan, image: &Image, wharf: bool, containerd: bool) -> Result<String> {
    let mut own = None;
    if wharf {
        let mut engine = Wharf::new()?;
        engine.start().await?;
        engine.import(image).await?;
        own = Some(Peer::new(engine));
    }
    let mut peer = None;
    match Containerd::missing() {
        Some(why) if containerd => eprintln!("no containerd to compare with: {why}"),
        _ if !containerd => {}
        _ => {
            let mut engine = Containerd::new(BASE.as_ref())?;
            engine.start().await?;
            engine.import(image)?;
            peer = Some(Peer::new(engine));
        }
    }
    // The same step of each peer, one after the other.
    macro_rules! each {
        ($step:ident $(, $plan:expr)?) => {
            if let Some(own) = own.as_mut() {
                own.$step($($plan)?).await.context(stringify!($step))?;
            }
            if let Some(peer) = peer.as_mut() {
                peer.$step($($plan)?).await.context(stringify!($step))?;
            }
        };
    }
    each!(warm_up);
    for round in 1..=plan.rounds {
        eprintln!("lives: round {round} of {}", plan.rounds);
        each!(lives, plan);
        each!(crowd, plan);
    }
    if let Some(why) = Registry::missing() {
        eprintln!("no pulls: {why}");
    } else {
        let registry = Registry::start().await?;
        registry.push(&large_image()?, "bench/large", "1")?;
        let reference = registry.reference("bench/large:1");
        for pull in 1..=plan.pulls {
            eprintln!("pull {pull} of {}", plan.pulls);
            each!(pull, &reference);
        }
    }
    let mut log_rates = Vec::new();
    let mut steps = Vec::new();
    if let Some(own) = own.as_mut() {
        for (name, times) in own.engine.steps(plan.lives).await.context("steps")? {
            steps.push(format!("{name} {:.1} ms", median_ms(&times)));
        }
        for _ in 0..plan.rounds.min(3) {
            log_rates.push(own.engine.log_rate().await.context("log")?);
        }
    }
    eprintln!("{} containers", plan.containers);
    each!(fill, plan);
    for _ in 0..plan.rounds {
        each!(execs, plan);
    }
    eprintln!("{} restarts", plan.restarts);
    for _ in 0..plan.restarts {
        each!(restart, plan);
    }
    if let Some(own) = own.as_mut() {
        eprintln!("{} containers, and restarts", plan.many);
        own.many(plan).await.context("many")?;
    }
    let steps = match steps.as_slice() {
        [] => String::new(),
        steps => format!("A life on Wharf: {}.\n", steps.join(", ")),
    };
    let names = [own.as_ref().map(|p| p.engine.name()), peer.as_ref().map(|p| p.engine.name())];
    let names = names.map(|n| n.unwrap_or_else(|| "–".into()));
    let own = match own {
        Some(own) => Some(own.remove(plan).await?),
        None => None,
    };
    let peer = match peer {
        Some(peer) => Some(peer.remove(plan).await?),
        None => None,
    };
    let mut rows = daemon_rows(&[own.as_ref(), peer.as_ref()], plan.containers);
    rows.push(Row {
        what: "container output to its log".into(),
        unit: "MiB/s",
        more_is_better: true,
        figures: vec![Some(median(log_rates)), None],
        budget: "500 MiB/s a core",
    });
    rows.extend(own.as_ref().map(|own| many_rows(own, plan.many)).unwrap_or_default());
    let lives = plan.rounds * plan.lives;
    Ok(format!(
        "{}\n{}{lives} lives, {} with {CALLERS} callers, {} execs, {} restarts each.\n",
        table(&names, &rows),
        steps,
        plan.rounds * plan.lives_each * CALLERS,
        plan.rounds * plan.execs,
        plan.restarts,
    ))
}

fn shims(quick: bool, image: &Image) -> Result<String> {
    let plan = if quick { shims::Plan::QUICK } else { shims::Plan::FULL };
    eprintln!("shims alone");
    let programs = shims::all()?;
    let names: Vec<_> = programs.iter().map(|program| program.name.clone()).collect();
    Ok(table(&names, &shims::measure(&programs, plan, image, BASE.as_ref())?))
}

fn alone(plan: Plan, image: &Image) -> Result<String> {
    let bundle = Bundle::new(BASE.as_ref(), image)?;
    let runtimes = runtimes::all();
    let mut times = vec![Vec::new(); runtimes.len()];
    for round in 1..=plan.rounds {
        eprintln!("runtimes: round {round} of {}", plan.rounds);
        for (runtime, times) in runtimes.iter().zip(&mut times) {
            match bundle.measure(runtime, plan.lives) {
                Ok(new) => times.extend(new),
                Err(error) => eprintln!("{error:#}"),
            }
        }
    }
    let names: Vec<_> = runtimes.iter().map(|r| r.name.clone()).collect();
    let figures = times.iter().map(|t| (!t.is_empty()).then(|| median_ms(t))).collect::<Vec<_>>();
    let row = Row {
        what: "runtime alone, `run` of `true` under Docker's default seccomp profile".into(),
        unit: "ms",
        more_is_better: false,
        figures,
        budget: "1 × crun, 5 × runc",
    };
    let facts: Vec<_> = runtimes
        .iter()
        .map(|runtime| bundle.facts(runtime).inspect_err(|error| eprintln!("{error:#}")).ok())
        .collect();
    let fact = |what: &str, unit, budget, of: &dyn Fn(&(u64, u64)) -> f64| Row {
        what: what.to_owned(),
        unit,
        more_is_better: false,
        figures: facts.iter().map(|facts| facts.as_ref().map(of)).collect(),
        budget,
    };
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let rows = [
        row,
        fact("peak memory of the process that runs it", "MiB", "2 MiB", &|f| f.0 as f64 / 1024.0),
        fact("system calls of a run, by all its processes", "", "", &|f| f.1 as f64),
    ];
    Ok(table(&names, &rows))
}
