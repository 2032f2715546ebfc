"""The phrasings of each intent, and the words that fill them.

Of each list the last phrasings are never trained on (see data.py), so that what is held out is not only
other words in the same sentence. `direct` ones are orders or questions as they are given to a machine,
`indirect` ones say what somebody sees or wants, and leave the rest to the hearer.
"""

from __future__ import annotations

from typing import NamedTuple


class Phrasings(NamedTuple):
    """The ways to say one thing. Braces hold the names of `WORDS`."""

    direct: tuple[str, ...]
    indirect: tuple[str, ...]


WORDS: dict[str, tuple[str, ...]] = {
    "room": (
        "boiler room", "workshop", "hall two", "meeting room", "kitchen", "loading bay", "office", "basement",
        "canteen", "server room", "paint shop", "lobby", "storage room", "corridor", "laboratory", "garage",
    ),
    "machine": (
        "pump", "compressor", "conveyor", "fan", "boiler", "press", "chiller", "mixer", "lathe", "generator",
        "drill", "packing line", "milling machine", "labeller", "crane", "dust extractor",
    ),
    "door": ("main door", "gate", "back door", "side entrance", "fire door", "roller door", "server cage"),
    "part": (
        "filter", "belt", "bearing", "fuse", "gasket", "valve", "hose", "seal", "relay", "nozzle", "coupling",
        "pressure sensor", "brake pad", "impeller",
    ),
    "degrees": ("16", "17", "18", "19", "20", "21", "22", "23", "24", "eighteen", "twenty", "twenty one"),
    "minutes": ("two", "five", "ten", "fifteen", "20", "25", "30", "forty", "45", "ninety"),
    "day": (
        "monday", "tuesday", "wednesday", "thursday", "friday", "tomorrow", "next week", "on sunday",
        "the first of march", "after the shift",
    ),
    "count": ("two", "three", "four", "six", "ten", "a dozen", "a box of", "20", "a spare", "another"),
    "number": ("1", "2", "3", "4", "7", "12", "b4", "c2", "nine"),
    "symptom": (
        "rattling", "leaking oil", "smoking", "shaking", "squealing", "running hot", "dripping",
        "making a grinding noise", "smelling of burnt rubber", "losing pressure",
    ),
}  # fmt: skip

# What the same thing is called where: the words above, then the word at each site that has its own.
SITE_WORDS: dict[str, dict[str, str]] = {
    "leeds": {"garage": "car park", "crane": "hoist", "main door": "front door", "fuse": "cartridge fuse"},
    "austin": {"canteen": "break room", "boiler": "furnace", "chiller": "ac unit", "hall two": "bay two"},
    "bergen": {"basement": "cellar", "workshop": "verksted", "meeting room": "møterom", "gasket": "pakning"},
}

POLITE = ("could you {}", "please {}", "would you mind, {}", "{} please", "can you {} for me", "kindly {}")
SPOKEN = ("uh {}", "hey, {}", "ok so {}", "{} yeah", "um, {} I guess", "right, {}", "so like {}", "{} thanks")

INTENTS: dict[str, Phrasings] = {
    "lights_on": Phrasings(
        (
            "turn on the lights in the {room}", "switch the {room} light on", "lights on in the {room}",
            "light up the {room}", "put the {room} lamps on", "turn the lights on", "{room} lights on",
            "give me some light in the {room}", "make it brighter in the {room}", "illuminate the {room}",
        ),
        (
            "it is too dark in the {room}", "I cannot see a thing in the {room}",
            "the {room} needs more light", "someone left the {room} in the dark",
            "we are standing in the dark in the {room}", "the {room} is pitch black",
        ),
    ),
    "lights_off": Phrasings(
        (
            "turn off the lights in the {room}", "switch the {room} light off",
            "lights off in the {room}", "kill the lights in the {room}", "put the {room} lamps out",
            "turn the lights off", "{room} lights off", "darken the {room}",
            "shut the {room} lights down", "lights out in the {room}",
        ),
        (
            "nobody is in the {room} and the lights are on", "the {room} is lit for no reason",
            "we are leaving the {room}, no light needed", "the lamps in the {room} are still burning",
            "the {room} is too bright for the projector", "the {room} lights can go dark now",
        ),
    ),
    "set_temperature": Phrasings(
        (
            "set the {room} to {degrees} degrees", "heat the {room} to {degrees}",
            "cool the {room} to {degrees}", "make it {degrees} degrees in the {room}",
            "turn the heating in the {room} to {degrees}", "thermostat {degrees} in the {room}",
            "change the {room} temperature to {degrees}", "bring the {room} down to {degrees}",
            "warm up the {room}", "turn up the heating in the {room}",
        ),
        (
            "it is freezing in the {room}", "we are sweating in the {room}",
            "the {room} should be at {degrees}", "I would like {degrees} degrees in the {room}",
            "the {room} is far too warm", "people in the {room} are wearing their coats",
        ),
    ),
    "read_temperature": Phrasings(
        (
            "what is the temperature in the {room}", "how warm is the {room}",
            "tell me the {room} temperature", "how many degrees in the {room}",
            "read the {room} thermometer", "{room} temperature", "how hot is it in the {room}",
            "check how cold the {room} is", "temperature reading for the {room}",
            "what does the {room} thermostat say",
        ),
        (
            "I wonder how warm the {room} is", "I need to know the degrees in the {room}",
            "is it above {degrees} in the {room}", "I have to log the {room} temperature",
            "has the {room} reached {degrees} yet", "is the {room} below {degrees} degrees",
        ),
    ),
    "start_machine": Phrasings(
        (
            "start the {machine}", "turn the {machine} on", "switch on {machine} {number}",
            "run the {machine}", "fire up the {machine}", "power up {machine} {number}",
            "get the {machine} going", "restart the {machine}", "bring {machine} {number} online",
            "spin up the {machine}",
        ),
        (
            "we need the {machine} running", "the {machine} can go again", "I am ready for the {machine}",
            "the {machine} should be working by now", "time for {machine} {number} to run",
            "the line waits for the {machine}",
        ),
    ),
    "stop_machine": Phrasings(
        (
            "stop the {machine}", "turn the {machine} off", "switch off {machine} {number}",
            "halt the {machine}", "shut down the {machine}", "power down {machine} {number}",
            "emergency stop on the {machine}", "pause the {machine}", "take {machine} {number} offline",
            "cut the power of the {machine}",
        ),
        (
            "the {machine} must not run now", "we are done with the {machine}",
            "someone is inside the {machine}", "the {machine} can rest",
            "no more need for {machine} {number} today", "do not let the {machine} run any longer",
        ),
    ),
    "machine_status": Phrasings(
        (
            "what is the status of the {machine}", "is the {machine} running",
            "how is {machine} {number} doing", "show me the state of the {machine}",
            "status {machine} {number}", "check the {machine}", "is {machine} {number} online",
            "report on the {machine}", "give me the {machine} readings",
            "look up how the {machine} is doing",
        ),
        (
            "I want to know whether the {machine} works", "has the {machine} stopped",
            "any news from {machine} {number}", "I cannot tell if the {machine} is on",
            "did the {machine} start after lunch", "is everything fine with the {machine}",
        ),
    ),
    "report_fault": Phrasings(
        (
            "the {machine} is {symptom}", "report that the {machine} is {symptom}",
            "log a fault on {machine} {number}", "note that the {machine} is broken",
            "{machine} {number} is {symptom}", "the {machine} does not start",
            "there is a fault in the {machine}", "file a defect for the {machine}",
            "open a ticket, {machine} {number} is {symptom}", "record a breakdown of the {machine}",
        ),
        (
            "something is wrong with the {machine}", "I hear the {machine} {symptom}",
            "the {machine} has been {symptom} all day", "that {machine} sounds sick",
            "there is oil under the {machine}", "the {machine} keeps tripping its breaker",
        ),
    ),
    "order_part": Phrasings(
        (
            "order {count} {part} for the {machine}", "buy {count} {part}",
            "get {count} {part} from the supplier", "we need {count} {part}",
            "add {count} {part} to the order", "reorder the {part}", "request {count} {part}",
            "purchase {count} {part} for {machine} {number}", "have {count} {part} delivered",
            "put {count} {part} on the shopping list",
        ),
        (
            "we are out of {part}", "the last {part} is gone", "there is no {part} left in the store",
            "I used up the final {part}", "our stock of {part} is empty",
            "I could do with {count} {part}",
        ),
    ),
    "schedule_service": Phrasings(
        (
            "schedule maintenance for the {machine} {day}", "book a service of the {machine} {day}",
            "plan an inspection of {machine} {number} for {day}",
            "put the {machine} down for service {day}", "set a maintenance date for the {machine}",
            "arrange an overhaul of the {machine} {day}", "service {machine} {number} {day}",
            "move the {machine} inspection to {day}",
            "reserve a maintenance slot {day} for the {machine}",
            "put {machine} {number} on the service plan",
        ),
        (
            "the {machine} is due for service", "{machine} {number} has not been serviced for a year",
            "the {machine} should be looked after {day}", "{day} would suit the {machine} overhaul",
            "the yearly check of the {machine} is coming up", "can the {machine} be inspected {day}",
        ),
    ),
    "call_technician": Phrasings(
        (
            "call a technician to the {room}", "get me an electrician", "send someone to the {room}",
            "page the mechanic on duty", "I need a technician for the {machine}",
            "phone the maintenance team", "ask the plumber to come to the {room}",
            "fetch a mechanic for the {machine}", "dispatch an engineer to the {room}",
            "have the electrician come over",
        ),
        (
            "somebody has to come and look at the {machine}", "I cannot fix the {machine} by myself",
            "is there an electrician on shift", "who can help me at the {machine}",
            "this needs a pair of expert hands in the {room}", "we want a specialist at the {machine}",
        ),
    ),
    "find_manual": Phrasings(
        (
            "how do I change the {part} of the {machine}", "show me the manual of the {machine}",
            "open the instructions for {machine} {number}", "how is the {machine} reset",
            "find the wiring diagram of the {machine}", "where is the {part} on the {machine}",
            "explain how to replace the {part}", "steps for cleaning the {machine}",
            "pull up the handbook of the {machine}", "read me the procedure for the {part}",
        ),
        (
            "I do not know how to take out the {part}", "I forgot which {part} the {machine} takes",
            "what torque does the {part} need", "I have never opened the {machine} before",
            "which way round does the {part} go", "is there a guide to the {machine}",
        ),
    ),
    "lock_door": Phrasings(
        (
            "lock the {door}", "close the {door}", "shut the {door}", "secure the {door}",
            "bolt the {door}", "make sure the {door} is locked", "{door} locked",
            "lock up the {door} {day}", "seal the {door}", "keep the {door} closed",
        ),
        (
            "the {door} is still open", "anyone can walk in at the {door}",
            "someone left the {door} open", "the {door} should not be open",
            "the {door} stands wide open", "I forgot to lock the {door}",
        ),
    ),
    "set_timer": Phrasings(
        (
            "set a timer for {minutes} minutes", "wake me in {minutes} minutes",
            "timer {minutes} minutes", "remind me in {minutes} minutes to check the {machine}",
            "count down {minutes} minutes", "start a {minutes} minute timer",
            "ring after {minutes} minutes", "alert me in {minutes} minutes",
            "give me a shout in {minutes} minutes", "time {minutes} minutes for the {machine}",
        ),
        (
            "the glue needs {minutes} minutes", "I must be back at the {machine} in {minutes} minutes",
            "do not let me forget the {machine} in {minutes} minutes",
            "tell me when {minutes} minutes are over", "the paint dries in {minutes} minutes, say when",
            "I have only {minutes} minutes, watch the clock",
        ),
    ),
    "out_of_scope": Phrasings(
        (
            "tell me a joke", "what is for lunch in the canteen", "who won the game on {day}",
            "play some music", "how old are you", "translate hello into french",
            "what is the capital of norway", "what is two plus {minutes}", "sing me a song",
            "write a poem about a {machine}",
        ),
        (
            "I am bored", "my back hurts today", "I am going on holiday {day}", "the weather is lovely",
            "you sound tired", "my sister bought a new {part} for her bike",
        ),
    ),
}  # fmt: skip
