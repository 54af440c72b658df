r"""The phrases by which models announce, confirm and reject an option, in the languages that today's models answer in.

Every repetition is bounded, so that a search stays linear in the text. Patterns that stand right before or right after
an option are searched in a short window beside it.
"""

from __future__ import annotations

import re

_INNER = r"[^.\n:;?!=。：；]"
"""Any character inside a clause."""

ANNOUNCED = re.compile(
    # "the answer is", "Answer:", "answer -> ", {"answer": ...}
    rf"\b(?:answers?|ans|solution|conclusion|verdict|response)\b[\"'*)\]>]{{0,4}}(?P<inner>{_INNER}{{0,40}}?)"
    r"(?:\b(?:is|are|was|be|as|become)\b|[:=]|->|=>|→)"
    rf"|\b(?:correct|best|right|closest|matching|likely|appropriate|suitable|accurate|final|chosen|selected|my)\s"
    rf"(?:option|choice|match|candidate|letter|selection|pick|one)\b{_INNER}{{0,30}}?(?:\b(?:is|be)\b|[:=]|->|→)"
    r"|\b(?:I|we|I'd|I'll|let's|let me|I'm)\s(?:[\w']{1,12}\s){0,3}?(?:choose|pick|select|go with|going with"
    r"|answer|say"
    r"|vote for|lean towards?|leaning towards?|opt for|settle on|chose|picked|selected|conclude)\b(?:\s(?:that"
    r"|it is|it's))?"
    r"|\b(?:selected|choice|option|prediction|guess|result|label|correct(?:_option|_choice"
    r"|_answer)?)\b[\"']{0,2}\s?[:=]"
    r"|\bans\.\s|####|\\f?boxed|✅|☑|👉|➡"
    r"|答案(?:应该|应当|就|只能|可能|应)?[^。\n:：]{0,6}?(?:是|为|為|選|选|[:：])|[故应應]选|因此选|所以选|我选|选择|我的选择是|應選"
    r"|答え?(?:は|が|[:：])|正解(?:は|が|[:：])|回答(?:は|が|[:：])|정답(?:은|는|이|[:：])|답(?:은|는|[:：])"
    rf"|\bréponse\b{_INNER}{{0,25}}?(?:\best\b|:)|\brespuesta\b{_INNER}{{0,25}}?(?:\b(?:es|sería)\b|:)"
    rf"|\b(?:opción|alternativa)\scorrecta\b{_INNER}{{0,15}}?(?:\bes\b|:)|\belijo\b|\bje choisis\b|\bich wähle\b"
    rf"|\bescolho\b"
    rf"|\bantwort\w{{0,14}}\b{_INNER}{{0,25}}?(?:\b(?:ist|lautet|wäre)\b|:)|\blösung\b{_INNER}{{0,25}}?(?:\bist\b|:)"
    rf"|\brichtig\b{_INNER}{{0,5}}?(?:\bist\b|:)"
    rf"|\brisposta\b{_INNER}{{0,25}}?(?:\bè\b|:)|\bresposta\b{_INNER}{{0,25}}?(?:\bé\b|:)"
    rf"|\bответ(?:ом)?\b{_INNER}{{0,25}}?(?:[:—–-]|\bэто\b|\bявляется\b)|\bответ(?=\s)"
    rf"|\bantwoord\b{_INNER}{{0,25}}?(?:\bis\b|:)"
    rf"|\bodpowied\w{{1,3}}\b{_INNER}{{0,25}}?(?:\b(?:to|jest)\b|:)|\b(?:cevap|yanıt)\b{_INNER}{{0,10}}?:?"
    rf"|\bđáp án\b{_INNER}{{0,25}}?(?:\blà\b|:)|\bsvar(?:et)?\b{_INNER}{{0,15}}?(?:\b(?:är|er)\b|:)"
    rf"|الإجابة{_INNER}{{0,25}}?(?:هي|:)|الجواب{_INNER}{{0,15}}?(?:هو|:)|उत्तर\s?(?:है|विकल्प)?[\s:]",
    flags=re.IGNORECASE,
)
CONCLUDED = re.compile(
    r"\b(?:it|that|this)(?:'s|\s(?:is|must be|should be|would be|has to be|looks like|seems to be|can only be))\b"
    r"|\b(?P<last>finally)\b"
    r"|\b(?P<so>therefore|thus|hence|so|consequently|accordingly|which means(?: that)?)\b|\b(?:clearly|definitely"
    r"|probably|I think|I believe|I guess|I'd say"
    r"|looks like|must be|leaves(?:\sus\swith)?|leaving|points? to|corresponds? to|equals)\b"
    r"|(?<![=<>!])=(?![=>])|=>|->|→|因此|所以|那么就是|よって|したがって|따라서"
    r"|\balso\b|\bdonc\b|\bpor lo tanto\b|\bportanto\b"
    r"|\bquindi\b|\bзначит\b",
    flags=re.IGNORECASE,
)
FILLER = re.compile(
    r"(?:[\s,:;*(\[\"'>-]|\b(?:option|choice|letter|answer|the|is|it's|it|clearly|definitely|probably|most|likely"
    r"|that|be"
    r"|would|must|should|simply|just|with|die|der|das|la|le|el|l|opción|опция|вариант)\b|选项|是|选)*",
    flags=re.IGNORECASE,
)
"""What may stand between a conclusion and its option; matched in a window of ``GAP`` characters."""
INFERENCE = re.compile(
    r"[\s,:]*(?:the |my )?(?:(?:correct |right |final |best )?(?:answer|option|choice) )?"
    r"(?:(?:it|that|this|I|we)(?:'s| is| must be| would be| choose| pick| select| go with) )?[\s,:(\[\"'*]*",
    flags=re.IGNORECASE,
)
"""What stands between "so" at the begin of a sentence and the option that it decides for."""
GAP = 60
WINDOW = 60

_LINK = (
    r"(?:\s(?:the|be|a|an|option|choice|letter|answer|is|quite|necessarily|really|simply|just|either|both|actually|to"
)
_LINK += (
    r"|for|it|any of|of|von|die|der|das|den|la|le|les|el|los|opción|вариант|options|choices|is it|è|é|es|est|ist|это))"
)
REJECTED_BEFORE = re.compile(
    r"(?:\b(?:not|never|neither|nor|isn't|wasn't|aren't|can't|cannot|couldn't|won't|doesn't|don't|wouldn't"
    r"|without|except"
    r"|excluding|excludes?|excluded|eliminat(?:e|es|ed|ing)|rul(?:e|es|ed|ing)\sout|reject(?:s|ed|ing)?"
    r"|discard(?:s|ed|ing)?"
    r"|dismiss(?:ed|ing)?|rather\sthan|instead\sof|as\sopposed\sto|opposed\sto|unlike|over|than|versus|vs|wrong"
    r"|incorrect"
    r"|considered|considering|consider|thought|tempted\sby|suspected|not\sto\sbe|ruled\sout"
    r"|nicht|keine?|statt|anstatt|anstelle\svon|außer|als|sondern\snicht|pas|plutôt\sque|au\slieu\sde|sauf|non"
    r"|no\ses|ni"
    r"|en\slugar\sde|en\svez\sde|salvo|invece\sdi|anziché|não|não\sé|em\svez\sde|не|вместо|кроме|niet|geen)"
    r"|\b(?:is|are|was|has|see)\sno\b|不是|不选|不能选|不会是|而不是|并非|而非|排除了?|除了|不應|不可能是)"
    rf"{_LINK}{{0,4}}[\s:(\[\"'*]{{0,3}}$"
    r"|\b(?:did|does|do|is|are|was|were|has|have|could|would|should|can)(?:\snot|n't)\s"
    r"(?:(?!so\b|but\b|hence\b|because\b|and\b|only\b)[a-z]{1,12}\s){1,3}$",
    flags=re.IGNORECASE,
)
_ADVERB = r"(?:also |clearly |definitely |obviously |both |all |therefore |thus |then |probably |likely |simply |just "
_ADVERB += r"|the |a |an )?"
REJECTED_AFTER = re.compile(
    r"[)\]\"'*\s:–—,-]{0,5}(?:"
    rf"(?:but|then again|hmm|wait)?[,\s]{{0,2}}no\b|(?:is|are|was|were|looks?|seems?|would be|must be|can be"
    rf"|could be|be|got|gets"
    rf"|has been|have been|being)\s{_ADVERB}(?:not\b|wrong|incorrect|false|out\b|ruled out|eliminated|excluded"
    rf"|rejected"
    r"|discarded|impossible|unlikely|invalid|inconsistent|too\b|distractor|trap|mistake)"
    r"|would\s(?!be\s(?:the|correct|right|my|best|a)\b|fit|match|seem)|isn't|aren't|wasn't|weren't|can't|cannot"
    r"|can not|could not|couldn't|doesn't|does not|do not|don't|did not|won't"
    r"|would not|wouldn't|fails?\b|contradicts?\b|instead of being|\(?(?:wrong|incorrect|false|eliminated"
    r"|ruled out|rejected)\b"
    r"|❌|✗|✘|×|👎"
    r"|(?:ist|sind|wäre)\s(?:nicht|falsch|ausgeschlossen)|scheidet aus|n'est pas|ne (?:convient|correspond)"
    r"|est\s(?:faux|fausse|incorrecte?|exclue?)"
    r"|no es|no son|es\s(?:incorrect|falso|falsa)|non è|è\s(?:sbagliat|errat|falsa)|não é|está errad"
    r"|é\s(?:incorret|errad|falsa)"
    r"|не\s|[—–-]?\s?неверн|[—–-]?\s?неправильн|is niet|is fout"
    r"|不对|不正确|是?错|不是|不符合|可以排除|被排除|排除|は(?:違|間違|不正解|正しくな|誤)|ではな|じゃな|(?:은|는|이|가)\s?(?:아니|틀|오답|아닙)|아니)",
    flags=re.IGNORECASE,
)
_NOUN = r"(?:\s(?:answer|option|choice|one|match|fit|letter|piece|image|selection|response|candidate))?"
CONFIRMED_AFTER = re.compile(
    r"[)\]\"'*\s:–—,-]{0,4}(?:"
    r"(?:is|are|was|must be|should be|would be|has to be|seems(?: to be)?|looks(?: to be)?|appears(?: to be)?)\s"
    r"(?:clearly |definitely |therefore |thus |indeed |most likely |likely |probably |obviously |actually |hence "
    r"|then )?"
    r"(?:the |my |our )?(?:only |final |most )?"
    rf"(?:correct|right|best|true|accurate|appropriate|likely|suitable|answer|choice|winner|closest|one|match){_NOUN}"
    r"(?=\s?(?:[.,;!:)\n]|$|because|since|as\b|here|for\b|given|based|to\b|in\b))"
    r"|fits best|matches best|is it\b|it is\b(?=[.!\s]{0,2}$)|wins\b|✓|✔|✅|\((?:correct|right|my answer"
    r"|my choice)\)|(?:correct|right)(?=[.!]?\s?(?:\n|$))"
    r"|(?:选项)?(?:是|才是)?(?:正确|对的)|(?:ist|wäre|scheint)\s(?:die\s|also\s)?(?:richtig|korrekt|beste)"
    r"|est\s(?:la\s|donc\s)?(?:bonne|correcte?|juste|exacte?)|es\s(?:la\s)?(?:correct|respuesta)"
    r"|è\s(?:la\s)?(?:corrett|giust|risposta)"
    r"|é\s(?:a\s)?(?:corret|resposta|cert)|が(?:正解|正しい)|(?:가|이)\s?(?:정답|맞)|[—–-]?\s?(?:верн|правильн))",
    flags=re.IGNORECASE,
)
LIST_LINK = re.compile(
    r"[\s,()\[\]\"'.:;*-]{0,6}(?P<joined>(?:\b(?:and|or|nor|und|oder|et|ou|y|o|e|ni|noch|и|или|ни|alternatively|maybe"
    r"|possibly|perhaps|otherwise)\b|和|或|与|と|か|、|/|&)"
    r"[\s(,\[\"'*]{0,4}(?:(?:either|both|option|choice|letter|even|maybe|possibly|else|alternatively|also|it's|it is"
    r"|perhaps)\s[(\[]?){0,2})?[\s(\[\"'*]{0,3}",
    flags=re.IGNORECASE,
)
HEDGED_BEFORE = re.compile(
    r"(?:\b(?:could|might|may|can)(?:\s(?:also|well|just|equally|as|easily|possibly|very)){0,4}\sbe"
    r"|\b(?:maybe|perhaps|possibly|conceivably)(?:\s(?:it's|it is|also|even))?"
    r"|\bpodría ser|\bpourrait être|\bkönnte(?: auch)?|可能是|也可能是|也许是|或许是)"
    r"(?:\s(?:the|an?|my|option|choice|answer|letter|correct|right)){0,3}[\s:,(\[\"'*]{0,3}$",
    flags=re.IGNORECASE,
)
"""Before an option that is only called possible."""
IDIOMS = re.compile(
    r"\b(?:you\s?(?:'re|are)|that\s?(?:'s|is)|all|quite|just|am I|I'm|I am)\sright\b"
    r"|\bright\s(?:now|away|answer|option|choice|one|amount|track|image|piece|side up)\b|\balright\b|\bright\?"
    r"|\b(?:what\s?(?:'s|is)|is|are|was|were|have|has|nothing|be|been)\sleft\s(?:over|behind|to do|out|us with"
    r"|with)\b|\bwhat\s?(?:'s|is)\sleft\b"
    r"|\bleft\s(?:over|out|with|to decide)\b|\bno\s(?:doubt|matter|problem|longer|one|way|idea|other|need"
    r"|clear)\b|\bin no\b"
    r"|\byes or no\b|\bleft or right\b|\bright or left\b",
    flags=re.IGNORECASE,
)
"""Idioms with a word that is often an option's text, but does not choose it."""
CLAUSE_END = re.compile(r"[.;!?\n。；！？]")
