//! The subjects of MMLU and KMMLU by category, as lm-eval groups them.

/// A category and its subjects, in small letters with single spaces.
type Categories = [(&'static str, &'static [&'static str])];

pub(super) const MMLU: &Categories = &[
    (
        "stem",
        &[
            "abstract algebra",
            "anatomy",
            "astronomy",
            "college biology",
            "college chemistry",
            "college computer science",
            "college mathematics",
            "college physics",
            "computer security",
            "conceptual physics",
            "electrical engineering",
            "elementary mathematics",
            "high school biology",
            "high school chemistry",
            "high school computer science",
            "high school mathematics",
            "high school physics",
            "high school statistics",
            "machine learning",
        ],
    ),
    (
        "other",
        &[
            "business ethics",
            "clinical knowledge",
            "college medicine",
            "global facts",
            "human aging",
            "management",
            "marketing",
            "medical genetics",
            "miscellaneous",
            "nutrition",
            "professional accounting",
            "professional medicine",
            "virology",
        ],
    ),
    (
        "social sciences",
        &[
            "econometrics",
            "high school geography",
            "high school government and politics",
            "high school macroeconomics",
            "high school microeconomics",
            "high school psychology",
            "human sexuality",
            "professional psychology",
            "public relations",
            "security studies",
            "sociology",
            "us foreign policy",
        ],
    ),
    (
        "humanities",
        &[
            "formal logic",
            "high school european history",
            "high school us history",
            "high school world history",
            "international law",
            "jurisprudence",
            "logical fallacies",
            "moral disputes",
            "moral scenarios",
            "philosophy",
            "prehistory",
            "professional law",
            "world religions",
        ],
    ),
];

pub(super) const KMMLU: &Categories = &[
    (
        "humss",
        &[
            "accounting",
            "criminal law",
            "economics",
            "education",
            "korean history",
            "law",
            "management",
            "political science and sociology",
            "psychology",
            "social welfare",
            "taxation",
        ],
    ),
    (
        "other",
        &[
            "agricultural sciences",
            "construction",
            "fashion",
            "food processing",
            "health",
            "interior architecture and design",
            "marketing",
            "patent",
            "public safety",
            "real estate",
            "refrigerating machinery",
        ],
    ),
    (
        "applied science",
        &[
            "aviation engineering and maintenance",
            "electronics engineering",
            "energy management",
            "environmental science",
            "gas technology and engineering",
            "geomatics",
            "industrial engineer",
            "machine design and manufacturing",
            "maritime engineering",
            "nondestructive testing",
            "railway and automotive engineering",
            "telecommunications and wireless technology",
        ],
    ),
    (
        "stem",
        &[
            "biology",
            "chemical engineering",
            "chemistry",
            "civil engineering",
            "computer science",
            "ecology",
            "electrical engineering",
            "information technology",
            "materials engineering",
            "math",
            "mechanical engineering",
        ],
    ),
];

/// The category of a subject, however its words are joined.
pub(super) fn category(categories: &Categories, subject: &str) -> Option<&'static str> {
    let found = categories
        .iter()
        .find(|(_, subjects)| subjects.contains(&subject));
    found.map(|(category, _)| *category)
}

/// A subject in small letters with single spaces.
pub(super) fn plain_subject(text: &str) -> String {
    let words = text.split(|c: char| c == '_' || c == '-' || c.is_whitespace());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    words.join(" ")
}
