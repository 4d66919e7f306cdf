"""The words that the write gate knows in English, German, French, Spanish and Chinese.

What tells the language, what denies, what says "now", verbs with what they claim, and opposites.
"""

from __future__ import annotations

from ..tables import STOP_WORDS


def word_set(text: str) -> frozenset[str]:
    """Return the words of a table written as one string."""
    return frozenset(text.split())


ENGLISH, GERMAN, FRENCH, SPANISH, CHINESE = "en", "de", "fr", "es", "zh"

TELLING = {
    GERMAN: word_set(
        "ich mein meine meinen meinem meiner wir uns unser unsere nicht kein keine keinen der das den dem "
        "ein eine einen ist bin sind und jetzt im zum zur bei nach auf mit nutze nutzen wohne mag"
    ),
    FRENCH: word_set(
        "je j' mon ma mes nous notre nos le les des une du est suis sont et ne n' pas l' d' au aux chez "
        "avec pour maintenant désormais qui dans à"
    ),
    SPANISH: word_set(
        "yo mi mis nos nuestro nuestra el los las una del es soy son está estoy estamos y ahora ya con para "
        "en al he ha mudado mudé vivo uso usamos gusta gustan encanta odio prefiero trabajo"
    ),
}
"""Words that tell the language; each of them counts once."""
TELLS_ENGLISH = STOP_WORDS - word_set("me has no as a son on his he in am an so was will")

NEGATIONS = {
    ENGLISH: word_set("not no never none without nor cannot"),
    GERMAN: word_set("nicht kein keine keinen keinem keiner nie niemals ohne"),
    FRENCH: word_set("ne n' pas jamais sans aucun aucune"),
    SPANISH: word_set("no nunca jamás sin ningún ninguna tampoco"),
    CHINESE: word_set("不 没 无 未 别"),
}
ME = word_set(
    "i me my mine our we us user users user's 我 ich mich mir mein meine meinen meinem meiner wir uns unser "
    "unsere unseren unserem je j' moi mon mes nous notre yo mi mis nosotros nuestro nuestra nuestros"
)
EMPTY_ANYWHERE = word_set(
    "now currently current new actually really also today always just please note remember anymore "
    "的 了 是 现 在 吧 啊"
)
EMPTY = {
    ENGLISH: STOP_WORDS,
    CHINESE: STOP_WORDS,
    GERMAN: word_set(
        "der die das den dem des ein eine einen einem einer und oder ist bin sind bist im in am an auf zu "
        "zum zur bei nach mit von vom für es jetzt nun inzwischen mittlerweile neuerdings auch wirklich sehr "
        "gerne gern habe haben hat"
    ),
    FRENCH: word_set(
        "le la les l' un une des du de d' au aux à en dans est suis sommes sont et ou qui que ai as a avons "
        "maintenant désormais dorénavant plus aussi très ce c' il elle"
    ),
    SPANISH: word_set(
        "el la los las un una unos unas de del al a en es soy somos son está estoy están y o que he ha hemos "
        "ahora ya también muy me nos se lo"
    ),
}
"""Words without content."""
EMPTY_AFTER = {"longer": "no", "more": "any"}
"""Words that say nothing after another: "no longer"."""
PAST = word_set(
    "was were did had used war waren hatte hatten wurde gewesen étais était étaient avait era eran fui fue "
    "estaba estuve había tenía"
)

_LIKES = (
    "love loves loved like likes liked enjoy enjoys adore adores mag mögen liebe liebt lieben aime aimes "
    "aimons adorons gusta gustan encanta encantan amo ama adoro"
)
_DISLIKES = (
    "hate hates hated dislike dislikes detest detests loathe despise hasse hasst hassen verabscheue déteste "
    "détestes détestons hais odio odia odiamos detesto detesta"
)
ATTITUDES = {word: True for word in _LIKES.split()} | {word: False for word in _DISLIKES.split()}
"""Whether a verb says that somebody likes something, or that they do not."""
_OPPOSITES = (
    "open/closed enabled/disabled allowed/forbidden permitted/prohibited available/unavailable "
    "active/inactive working/broken alive/dead valid/invalid possible/impossible full/empty public/private "
    "online/offline legal/illegal safe/unsafe offen/geschlossen aktiv/inaktiv erlaubt/verboten voll/leer "
    "ouvert/fermé ouverte/fermée activé/désactivé autorisé/interdit plein/vide abierto/cerrado "
    "abierta/cerrada activado/desactivado permitido/prohibido lleno/vacío"
)
_PAIRS = [pair.split("/") for pair in _OPPOSITES.split()]
STATES = {good: (good, True) for good, _ in _PAIRS} | {bad: (good, False) for good, bad in _PAIRS}
"""For a state, the name of the pair of opposites, and whether it is the positive one."""

TIMES = word_set(
    "monday tuesday wednesday thursday friday saturday sunday noon midnight am pm january february march "
    "april may june july august september october november december tomorrow montag dienstag mittwoch "
    "donnerstag freitag samstag sonntag lundi mardi mercredi jeudi vendredi samedi dimanche lune mart "
    "miércol juev viern sábado domingo"
)
"""As stems: Spanish days have lost their endings."""
NOW = word_set(
    "now nowadays instead jetzt nun inzwischen mittlerweile neuerdings maintenant désormais dorénavant ahora "
    "gezogen umgezogen déménagé emménagé mudado mudé mudó"
)
ALSO = word_set("also too auch aussi également también")
DENIES = word_set("not no never don't doesn't nicht kein keine keinen nie ne n' pas nunca")
DESCRIBES = word_set("a an some very ein eine einen sehr un une très una muy")
PREPOSITIONS = word_set(
    "in at on from under with for by near to auf bei mit für nach im am an à au aux chez sur pour avec en "
    "para con"
)
SPANISH_FIRST = word_set(
    "yo me he hemos nos soy somos estoy vivo vivimos mudé mudamos trabajo trabajamos uso usamos utilizo "
    "utilizamos conduzco bebo juego"
)
"""Forms that say "I" or "we" without the word."""
_VERBS = {
    ENGLISH: {
        "use": "use uses", "run": "run runs", "drive": "drive drives", "ride": "ride rides",
        "drink": "drink drinks", "play": "play plays", "study": "study studies", "teach": "teach teaches",
        "wear": "wear wears", "eat": "eat eats", "manage": "manage manages", "lead": "lead leads",
        "host": "host hosts", "store": "store stores", "follow": "follow follows", "own": "own owns",
        "listen": "listen listens", "write": "write writes", "deploy": "deploy deploys",
        "publish": "publish publishes", "charge": "charge charges", "pay": "pay pays",
    },
    GERMAN: {
        "be": "ist bin sind heißt heiße", "work": "arbeite arbeitet arbeiten",
        "place": "wohne wohnt wohnen lebe lebt leben gezogen umgezogen",
        "use": "nutze nutzt nutzen benutze benutzt verwende verwendet verwenden", "run": "läuft laufen",
        "drive": "fahre fährt", "drink": "trinke trinkt", "play": "spiele spielt",
    },
    FRENCH: {
        "be": "est suis sommes sont", "work": "travaille travaillent travaillons",
        "place": "habite habitent habitons vis vit vivons déménagé emménagé",
        "use": "utilise utilisent utilisons emploie", "run": "tourne fonctionne", "drive": "conduis conduit",
        "drink": "bois boit", "play": "joue",
    },
    SPANISH: {
        "be": "es soy somos son está estoy están", "work": "trabajo trabaja trabajamos trabajan",
        "place": "vivo vive vivimos viven mudado mudé mudó",
        "use": "uso usa usamos usan utilizo utiliza utilizamos", "run": "corre funciona",
        "drive": "conduzco conduce", "drink": "bebo bebe", "play": "juego juega",
    },
}  # fmt: skip
VERBS = {
    language: {form: verb for verb, forms in verbs.items() for form in forms.split()}
    for language, verbs in _VERBS.items()
}
"""By language, the verb that a form belongs to."""
