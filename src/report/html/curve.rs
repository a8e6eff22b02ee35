//! A curve of any length in bounded memory: of each stretch its least and its greatest value.

/// Buckets that are held while reading.
const HELD: usize = 4096;

type Point = (u64, f64);

#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    /// Steps of a bucket, a power of two.
    width: u64,
    buckets: Vec<Bucket>,
    pub first: Point,
    pub last: Point,
    pub count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    /// The step of its first point, divided by the width.
    number: u64,
    least: Point,
    greatest: Point,
}

impl Curve {
    /// A curve of one point.
    pub fn new(step: u64, value: f64) -> Self {
        let point = (step, value);
        Self {
            width: 1,
            buckets: vec![Bucket::new(step, point)],
            first: point,
            last: point,
            count: 1,
        }
    }

    /// Adds a point; steps do not fall.
    pub fn push(&mut self, step: u64, value: f64) {
        let bucket = Bucket::new(step / self.width, (step, value));
        self.last = (step, value);
        self.count += 1;
        match self.buckets.last_mut() {
            Some(last) if last.number == bucket.number => last.join(&bucket),
            _ => self.buckets.push(bucket),
        }
        if self.buckets.len() > HELD {
            self.halve();
        }
    }

    pub fn least(&self) -> Point {
        let least = self.buckets.iter().map(|bucket| bucket.least);
        least.fold(self.first, |a, b| if b.1 < a.1 { b } else { a })
    }

    pub fn greatest(&self) -> Point {
        let greatest = self.buckets.iter().map(|bucket| bucket.greatest);
        greatest.fold(self.first, |a, b| if b.1 > a.1 { b } else { a })
    }

    /// First, last, and both extremes of each of `buckets` stretches at the most, in the order of steps.
    pub fn points(&self, buckets: usize) -> Vec<Point> {
        let mut curve = self.clone();
        while curve.buckets.len() > buckets.max(1) {
            curve.halve();
        }
        let extremes = curve.buckets.iter().flat_map(|bucket| {
            let (a, b) = (bucket.least, bucket.greatest);
            if a.0 <= b.0 { [a, b] } else { [b, a] }
        });
        let mut points = vec![self.first];
        points.extend(extremes.chain([self.last]));
        points.dedup();
        points
    }

    fn halve(&mut self) {
        self.width = self.width.saturating_mul(2);
        let mut joined: Vec<Bucket> = Vec::with_capacity(self.buckets.len() / 2 + 1);
        for bucket in &self.buckets {
            let number = bucket.number / 2;
            let bucket = Bucket { number, ..*bucket };
            match joined.last_mut() {
                Some(last) if last.number == number => last.join(&bucket),
                _ => joined.push(bucket),
            }
        }
        self.buckets = joined;
    }
}

impl Bucket {
    fn new(number: u64, point: Point) -> Self {
        Self {
            number,
            least: point,
            greatest: point,
        }
    }

    fn join(&mut self, other: &Self) {
        if other.least.1 < self.least.1 {
            self.least = other.least;
        }
        if other.greatest.1 > self.greatest.1 {
            self.greatest = other.greatest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_curve_keeps_its_peaks_its_ends_and_its_order() {
        let value = |step: u64| match step {
            70_001 => 900.0,
            70_002 => -900.0,
            step => (step as f64 * 0.01).sin(),
        };
        let mut curve = Curve::new(1, value(1));
        (2..=100_000).for_each(|step| curve.push(step, value(step)));
        assert!(curve.buckets.len() <= HELD);
        let points = curve.points(300);
        assert!(points.len() <= 602, "{}", points.len());
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        assert_eq!((points[0].0, points[points.len() - 1].0), (1, 100_000));
        for peak in [(70_001, 900.0), (70_002, -900.0)] {
            assert!(points.contains(&peak));
        }
        assert_eq!((curve.greatest().0, curve.least().0), (70_001, 70_002));
        assert_eq!(curve.count, 100_000);
    }

    #[test]
    fn a_short_curve_is_itself() {
        let mut curve = Curve::new(0, 2.0);
        (1..5).for_each(|step| curve.push(step, step as f64));
        let expected = [(0, 2.0), (1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)];
        assert_eq!(curve.points(300), expected);
    }
}
