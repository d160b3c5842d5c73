use super::*;
use std::sync::mpsc::channel;

/// What does not answer costs one wait, and nothing is asked of it until it did.
#[test]
fn who_waits_goes_on_and_nothing_is_looked_up_while_one_is_late() {
    let looks = Looks::default();
    let (answer, never) = channel::<()>();
    let (tell, told) = channel();
    let stuck = tell.clone();
    looks.within(
        Duration::from_millis(10),
        Box::new(move || {
            let _ = never.recv();
            let _ = stuck.send("late");
        }),
    );
    let next = tell.clone();
    looks.within(Duration::from_secs(60), Box::new(move || next.send("not run").unwrap()));
    assert!(told.try_recv().is_err());
    drop(answer);
    assert_eq!(told.recv().unwrap(), "late");
    while looks.0.lock().late > 0 {
        std::thread::yield_now();
    }
    looks.within(Duration::from_secs(60), Box::new(move || tell.send("run").unwrap()));
    assert_eq!(told.try_recv().unwrap(), "run");
    assert_eq!(looks.0.lock().running, 0);
    // One that dies is over, too.
    looks.within(Duration::from_secs(60), Box::new(|| panic!("on purpose")));
    let looking = looks.0.lock();
    assert_eq!((looking.running, looking.late), (0, 0));
}
