use super::*;

fn refused(json: &str) -> String {
    match Spec::parse(json.as_bytes()) {
        Err(Error::Spec { field, .. }) => field,
        other => panic!("{json}: {other:?}"),
    }
}

#[test]
fn what_does_not_fit_is_named_by_its_path() {
    assert_eq!(refused("[]"), "the document");
    assert_eq!(refused("{"), "the document");
    assert_eq!(refused("{}"), "ociVersion");
    let spec = |rest: &str| refused(&format!(r#"{{"ociVersion":"1.3.0",{rest}}}"#));
    assert_eq!(spec(r#""root":{}"#), "root.path");
    assert_eq!(spec(r#""root":{"path":"a\u0000b"}"#), "root.path");
    assert_eq!(spec(r#""process":{"user":{"uid":-1}}"#), "process.user.uid");
    assert_eq!(spec(r#""process":{"user":{"uid":4294967296}}"#), "process.user.uid");
    assert_eq!(spec(r#""process":{"args":["a",1]}"#), "process.args[1]");
    assert_eq!(
        spec(r#""process":{"capabilities":{"bounding":["CAP_KILL","CAP_FLY"]}}"#),
        "process.capabilities.bounding[1]"
    );
    assert_eq!(spec(r#""process":{"rlimits":[{"type":"RLIMIT_X"}]}"#), "process.rlimits[0].type");
    assert_eq!(spec(r#""linux":{"namespaces":[{"type":"net"}]}"#), "linux.namespaces[0].type");
    assert_eq!(spec(r#""linux":{"sysctl":{"a.b":1}}"#), r#"linux.sysctl["a.b"]"#);
    assert_eq!(
        spec(r#""linux":{"resources":{"memory":{"limit":"1g"}}}"#),
        "linux.resources.memory.limit"
    );
    assert_eq!(
        spec(r#""linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","architectures":["Z80"]}}"#),
        "linux.seccomp.architectures[0]"
    );
}

#[test]
fn null_is_nothing_and_the_unknown_is_ignored() {
    let json = r#"{"ociVersion":"1.3.0","mounts":null,"newest":{"a":[1]},"process":{"args":null,
        "cwd":"/","user":{"uid":1,"gid":2,"shoe":42}},"linux":{"devices":null}}"#;
    let spec = Spec::parse(json.as_bytes()).expect("valid");
    assert!(spec.mounts().is_none());
    let process = spec.process().as_ref().expect("there");
    assert_eq!((process.user().uid(), process.user().gid()), (1, 2));
}

#[test]
fn words_are_the_specs() {
    let json = r#"{"cwd":"/","scheduler":{"policy":"SCHED_DEADLINE","flags":[
        "SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_RECLAIM","SCHED_FLAG_DL_OVERRUN",
        "SCHED_FLAG_KEEP_POLICY","SCHED_FLAG_KEEP_PARAMS","SCHED_FLAG_UTIL_CLAMP_MIN",
        "SCHED_FLAG_UTIL_CLAMP_MAX"]},"execCPUAffinity":{"initial":"0-1","final":""},
        "ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":0}}"#;
    let process = Process::parse(json.as_bytes()).expect("valid");
    let scheduler = process.scheduler().as_ref().expect("there");
    assert_eq!(scheduler.flags().as_ref().map(Vec::len), Some(7));
    let error = Process::parse(br#"{"cwd":1}"#).expect_err("a number");
    assert!(error.to_string().contains("process.cwd: 1 is not a string"), "{error}");
}
