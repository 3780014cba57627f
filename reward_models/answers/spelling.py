"""One spelling for each English word: British forms become American ones, accents fall, for comparing words."""

from __future__ import annotations

import re
import unicodedata

_PAIRS = """
grey gray|greyish grayish|tyre tire|tyres tires|aeroplane airplane|aeroplanes airplanes|moustache mustache
moustaches mustaches|pyjamas pajamas|plough plow|ploughs plows|doughnut donut|doughnuts donuts|jewellery jewelry
cheque check|cheques checks|kerb curb|kerbs curbs|sceptical skeptical|mould mold|mouldy moldy|moulds molds|storey story
storeys stories|catalogue catalog|catalogues catalogs|dialogue dialog|dialogues dialogs|analogue analog
programme program|programmes programs|defence defense|offence offense|licence license|pretence pretense
practise practice|woollen woolen|skilful skillful|fulfil fulfill|enrol enroll
enrolment enrollment|enrolments enrollments
enrols enrolls|fulfils fulfills|fulfilment fulfillment
instalment installment|ageing aging
axe ax|cosy cozy|sulphur sulfur|aluminium aluminum|draught draft|draughts drafts|yoghurt yogurt|yoghurts yogurts
whisky whiskey|disc disk|discs disks|manoeuvre maneuver|paediatric pediatric|encyclopaedia encyclopedia
anaesthetic anesthetic|archaeology archeology|oestrogen estrogen|foetus fetus|haemoglobin hemoglobin|diarrhoea diarrhea
kilogramme kilogram|kilogrammes kilograms|gramme gram|tonne ton|sombre somber|calibre caliber|fibre fiber|fibres fibers
centre center|centres centers|centred centered|theatre theater|theatres theaters|metre meter|metres meters
litre liter|litres liters|kilometre kilometer|kilometres kilometers|centimetre centimeter|centimetres centimeters
millimetre millimeter|millimetres millimeters|millilitre milliliter|millilitres milliliters|lustre luster
spectre specter|sabre saber|meagre meager|goitre goiter|ochre ocher|sepulchre sepulcher|louvre louver|mitre miter
analyse analyze|analysed analyzed|analysing analyzing|paralyse paralyze|paralysed paralyzed|catalyse catalyze
artefact artifact|artefacts artifacts|chequered checkered|chequer checker|marvellous marvelous|snowplough snowplow
pedlar peddler|carburettor carburetor|omelette omelet|omelettes omelets|likeable likable|sizeable sizable
judgement judgment
acknowledgement acknowledgment|learnt learned|dreamt dreamed|burnt burned|spelt spelled|leapt leaped|whilst while
amongst among|towards toward|afterwards afterward|backwards backward|forwards forward|mum mom|mummy mommy|arse ass
liquorice licorice|smoulder smolder|smouldering smoldering|cypher cipher|gaol jail|vice vise
sceptre scepter|theatregoer theatergoer
"""
_TABLE = dict(pair.split() for line in _PAIRS.strip().splitlines() for pair in line.split("|"))
_OUR = re.compile(
    r"^((?:dis)?col|(?:dis)?hon|fav|flav|hum|lab|neighb|rum|savi|vap|vig|val|harb|parl|behavi|arm|clam|cand|ard|endeav|"
    r"glam|odou?|od|ranc|splend|tum|enam|ferv|rig|dem|succ|misbehavi|multicol|watercol|disfav)our"
    r"(|s|ed|ing|ful|less|able|ite|ites|hood|hoods|er|ers|y|ist|ists|fully|ably|ings|al|s')$"
)
_ISE = re.compile(r"^(\w{3,}?)is(e|es|ed|ing|er|ers|ation|ations|able)$")
_NOT_ISE = re.compile(
    r"(?:^|\b)(?:\w*(?:prom|prec|exerc|superv|telev|adv|rev|dev|surpr|compr|disgu|conc|exc|inc|adverts|advert|merchand|"
    r"franch|enterpr|ra|pra|no|poi|bru|chem|dem|des|treat|tort|porpo|turquo|parad|prem|anyw|otherw|likew|clockw|cerv|"
    r"cru|app?ra|expert|paradise|mayonna|marqu|val|rep|upr|malta|w|r|gu))is"
)
_DOUBLED = re.compile(r"^(\w{2,}[aeiou])ll(ed|ing|er|ers|ery)$")
_KEEPS_DOUBLE = re.compile(
    r"^(?:\w*(?:call|fill|kill|roll|pull|tell|sell|smell|spell|fall|wall|ball|hall|will|bill|mill|drill|grill|thrill|"
    r"chill|spill|still|skill|swell|yell|shell|dwell|poll|toll|stroll|scroll|troll|enroll|install|stall|gall|bell|cell|fell|"
    r"hell|well|jell|bull|dull|full|cull|mull|null|lull|gull|hull|pill|till|frill|shrill|controll|compell|propell|expell|"
    r"excell|rebell|patroll|repell|distill|instill|fulfill|allott|recall|small|tall|gallery|art))"
)


def american(word: str) -> str:
    """The American spelling of a lower-case word, without accents; other words come back as they are."""
    if not word.isascii():
        decomposed = unicodedata.normalize("NFD", word)
        if "LATIN" in unicodedata.name(decomposed[0], ""):
            word = "".join(c for c in decomposed if not unicodedata.combining(c)).replace("æ", "ae").replace("œ", "oe")
    if word in _TABLE:
        return _TABLE[word]
    if found := _OUR.match(word):
        return f"{found[1]}or{found[2]}"
    if (found := _ISE.match(word)) and not _NOT_ISE.match(word):
        return f"{found[1]}iz{found[2]}"
    if (found := _DOUBLED.match(word)) and not _KEEPS_DOUBLE.match(word):
        return f"{found[1]}l{found[2]}"
    return word


def stem(word: str) -> str:
    """A crude stem for asking whether two texts use the same word: "wears", "wearing" and "wear" are one."""
    word = american(word)
    for suffix in ("ies", "ing", "es", "ed", "s"):
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    return word.rstrip("ey")
