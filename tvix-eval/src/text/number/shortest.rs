//! The digits of a float, by Grisu2 (Florian Loitsch, "Printing Floating-Point Numbers Quickly and
//! Accurately with Integers", 2010). The digits parse back to the same float, but are not always
//! the fewest possible.

/// A number as `significand * 2^exponent`.
#[derive(Clone, Copy)]
struct Binary {
    significand: u64,
    exponent: i32,
}

impl Binary {
    fn times(self, other: Self) -> Self {
        let product = u128::from(self.significand) * u128::from(other.significand);
        Self {
            significand: ((product + (1 << 63)) >> 64) as u64,
            exponent: self.exponent + other.exponent + 64,
        }
    }

    fn normalised(self) -> Self {
        let shift = self.significand.leading_zeros();
        Self {
            significand: self.significand << shift,
            exponent: self.exponent - shift as i32,
        }
    }
}

/// Digits, and the power of ten of the last one.
pub(super) struct Digits {
    digits: [u8; 20],
    length: usize,
    pub(super) exponent: i32,
}

impl Digits {
    pub(super) fn as_slice(&self) -> &[u8] {
        &self.digits[..self.length]
    }

    fn push(&mut self, digit: u64) {
        self.digits[self.length] = b'0' + digit as u8;
        self.length += 1;
    }

    /// Decreases the last digit while this brings the result closer to the number.
    fn approach(&mut self, distance: u64, delta: u64, mut rest: u64, unit: u64) {
        while rest < distance
            && delta - rest >= unit
            && (rest + unit < distance || distance - rest > rest + unit - distance)
        {
            self.digits[self.length - 1] -= 1;
            rest += unit;
        }
    }
}

/// The digits of a finite number greater than zero.
pub(super) fn digits(number: f64) -> Digits {
    const HIDDEN: u64 = 1 << 52;
    let bits = number.to_bits();
    let fraction = bits & (HIDDEN - 1);
    let biased = ((bits >> 52) & 0x7ff) as i32;
    let value = if biased == 0 {
        Binary {
            significand: fraction,
            exponent: -1074,
        }
    } else {
        Binary {
            significand: fraction | HIDDEN,
            exponent: biased - 1075,
        }
    };
    // Half-way to the adjacent floats. The lower one is closer at a power of two.
    let above = Binary {
        significand: 2 * value.significand + 1,
        exponent: value.exponent - 1,
    }
    .normalised();
    let mut below = if fraction == 0 && biased > 1 {
        Binary {
            significand: 4 * value.significand - 1,
            exponent: value.exponent - 2,
        }
    } else {
        Binary {
            significand: 2 * value.significand - 1,
            exponent: value.exponent - 1,
        }
    };
    below.significand <<= below.exponent - above.exponent;
    below.exponent = above.exponent;

    let (power, decimal) = power(above.exponent);
    let value = value.normalised().times(power);
    let below = below.times(power).significand + 1;
    let mut above = above.times(power);
    above.significand -= 1;
    generate(above, below, value.significand, -decimal)
}

fn generate(above: Binary, below: u64, value: u64, exponent: i32) -> Digits {
    let mut out = Digits {
        digits: [0; 20],
        length: 0,
        exponent,
    };
    let mut delta = above.significand - below;
    let mut distance = above.significand - value;
    let shift = -above.exponent;
    let one = 1u64 << shift;
    let mut whole = above.significand >> shift;
    let mut part = above.significand & (one - 1);
    let mut left = whole.checked_ilog10().unwrap_or(0);
    let mut unit = 10u64.pow(left);
    loop {
        out.push(whole / unit);
        whole %= unit;
        let rest = (whole << shift) + part;
        if rest <= delta {
            out.exponent += left as i32;
            out.approach(distance, delta, rest, unit << shift);
            return out;
        }
        if left == 0 {
            break;
        }
        left -= 1;
        unit /= 10;
    }
    loop {
        part *= 10;
        out.push(part >> shift);
        part &= one - 1;
        out.exponent -= 1;
        delta *= 10;
        distance *= 10;
        if part <= delta {
            out.approach(distance, delta, part, one);
            return out;
        }
    }
}

/// A power of ten that scales a number with this binary exponent to between 2^-60 and 2^-32, and
/// its exponent.
fn power(exponent: i32) -> (Binary, i32) {
    let least = -60 - exponent - 1;
    // Division truncates towards zero.
    let decimal = least * 78_913 / (1 << 18) + i32::from(least > 0);
    let place = ((decimal + 307) / 8).clamp(0, 78);
    let (significand, exponent) = POWERS[place as usize];
    (
        Binary {
            significand,
            exponent,
        },
        place * 8 - 300,
    )
}

/// 10^-300, 10^-292 and so on up to 10^324, as 64-bit significands rounded to nearest, and powers
/// of two.
#[rustfmt::skip]
const POWERS: [(u64, i32); 79] = [
    (0xAB70FE17C79AC6CA, -1060),
    (0xFF77B1FCBEBCDC4F, -1034),
    (0xBE5691EF416BD60C, -1007),
    (0x8DD01FAD907FFC3C, -980),
    (0xD3515C2831559A83, -954),
    (0x9D71AC8FADA6C9B5, -927),
    (0xEA9C227723EE8BCB, -901),
    (0xAECC49914078536D, -874),
    (0x823C12795DB6CE57, -847),
    (0xC21094364DFB5637, -821),
    (0x9096EA6F3848984F, -794),
    (0xD77485CB25823AC7, -768),
    (0xA086CFCD97BF97F4, -741),
    (0xEF340A98172AACE5, -715),
    (0xB23867FB2A35B28E, -688),
    (0x84C8D4DFD2C63F3B, -661),
    (0xC5DD44271AD3CDBA, -635),
    (0x936B9FCEBB25C996, -608),
    (0xDBAC6C247D62A584, -582),
    (0xA3AB66580D5FDAF6, -555),
    (0xF3E2F893DEC3F126, -529),
    (0xB5B5ADA8AAFF80B8, -502),
    (0x87625F056C7C4A8B, -475),
    (0xC9BCFF6034C13053, -449),
    (0x964E858C91BA2655, -422),
    (0xDFF9772470297EBD, -396),
    (0xA6DFBD9FB8E5B88F, -369),
    (0xF8A95FCF88747D94, -343),
    (0xB94470938FA89BCF, -316),
    (0x8A08F0F8BF0F156B, -289),
    (0xCDB02555653131B6, -263),
    (0x993FE2C6D07B7FAC, -236),
    (0xE45C10C42A2B3B06, -210),
    (0xAA242499697392D3, -183),
    (0xFD87B5F28300CA0E, -157),
    (0xBCE5086492111AEB, -130),
    (0x8CBCCC096F5088CC, -103),
    (0xD1B71758E219652C, -77),
    (0x9C40000000000000, -50),
    (0xE8D4A51000000000, -24),
    (0xAD78EBC5AC620000, 3),
    (0x813F3978F8940984, 30),
    (0xC097CE7BC90715B3, 56),
    (0x8F7E32CE7BEA5C70, 83),
    (0xD5D238A4ABE98068, 109),
    (0x9F4F2726179A2245, 136),
    (0xED63A231D4C4FB27, 162),
    (0xB0DE65388CC8ADA8, 189),
    (0x83C7088E1AAB65DB, 216),
    (0xC45D1DF942711D9A, 242),
    (0x924D692CA61BE758, 269),
    (0xDA01EE641A708DEA, 295),
    (0xA26DA3999AEF774A, 322),
    (0xF209787BB47D6B85, 348),
    (0xB454E4A179DD1877, 375),
    (0x865B86925B9BC5C2, 402),
    (0xC83553C5C8965D3D, 428),
    (0x952AB45CFA97A0B3, 455),
    (0xDE469FBD99A05FE3, 481),
    (0xA59BC234DB398C25, 508),
    (0xF6C69A72A3989F5C, 534),
    (0xB7DCBF5354E9BECE, 561),
    (0x88FCF317F22241E2, 588),
    (0xCC20CE9BD35C78A5, 614),
    (0x98165AF37B2153DF, 641),
    (0xE2A0B5DC971F303A, 667),
    (0xA8D9D1535CE3B396, 694),
    (0xFB9B7CD9A4A7443C, 720),
    (0xBB764C4CA7A44410, 747),
    (0x8BAB8EEFB6409C1A, 774),
    (0xD01FEF10A657842C, 800),
    (0x9B10A4E5E9913129, 827),
    (0xE7109BFBA19C0C9D, 853),
    (0xAC2820D9623BF429, 880),
    (0x80444B5E7AA7CF85, 907),
    (0xBF21E44003ACDD2D, 933),
    (0x8E679C2F5E44FF8F, 960),
    (0xD433179D9C8CB841, 986),
    (0x9E19DB92B4E31BA9, 1013),
];
