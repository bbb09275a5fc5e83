"""Tables of words and sentence frames for the sample corpus, all of our own; curate.sample_text reads them."""

# name | organ | field | symptoms | drugs with dose | test | marker; low; high; unit | risks | complications | mechanism
DISEASES = """
type 2 diabetes|pancreas|endocrinology|thirst;frequent urination;fatigue;blurred vision|metformin 500 mg;empagliflozin 10 mg;gliclazide 80
 mg |fasting glucose test|HbA1c;6.5;11.4;%|obesity;lack of exercise|diabetic retinopathy;kidney damage|insulin resistance
hypertension|heart|cardiology|headache;dizziness;nosebleeds;palpitations|amlodipine 5 mg;ramipril 2.5 mg;losartan 50 mg |ambulatory blood
 pressure monitoring|systolic pressure;142;198;mmHg|high salt intake;alcohol use|ischaemic stroke;retinal bleeding|arteriolar stiffness
asthma|lungs|respiratory medicine|wheezing;dry cough;chest tightness;breathlessness|salbutamol 100 µg;budesonide 200 µg;montelukast 10 mg
 |spirometry|peak flow;180;390;L/min|house dust mite allergy;tobacco smoke|status asthmaticus;airway remodelling|bronchial inflammation
pneumonia|lungs|infectious diseases|fever;productive cough;pleuritic pain;chills|amoxicillin 500 mg;doxycycline 100 mg;clarithromycin 500 mg
 |chest radiography|C-reactive protein;85;310;mg/L|old age;swallowing difficulty|pleural empyema;septic shock|alveolar infection
heart failure|heart|cardiology|ankle swelling;breathlessness;nocturnal cough;fatigue|bisoprolol 2.5 mg;furosemide 40 mg;spironolactone 25 mg
 |echocardiography|ejection fraction;18;39;%|previous infarction;valve disease|pulmonary oedema;cardiogenic shock|impaired ventricular
 contraction
atrial fibrillation|heart|cardiology|palpitations;dizziness;exercise intolerance;faintness|apixaban 5 mg;bisoprolol 5 mg;amiodarone 200 mg
 |electrocardiography|heart rate;104;168;beats/min|sleep apnoea;thyroid overactivity|cardioembolic stroke;heart failure|disordered atrial
 conduction
rheumatoid arthritis|joints|rheumatology|morning stiffness;joint swelling;hand pain;fatigue|methotrexate 15 mg;prednisolone 7.5
 mg;adalimumab 40 mg |anti-CCP antibody test|erythrocyte sedimentation rate;38;96;mm/h|smoking;family history|joint erosion;interstitial
 lung disease|synovial inflammation
migraine|brain|neurology|throbbing headache;nausea;light sensitivity;visual aura|sumatriptan 50 mg;propranolol 40 mg;topiramate 25 mg
 |neurological examination|monthly headache days;6;19;days|irregular sleep;hormonal change|medication overuse headache;status
 migrainosus|trigeminal activation
epilepsy|brain|neurology|convulsions;staring spells;tongue biting;confusion|levetiracetam 500 mg;lamotrigine 25 mg;sodium valproate 300 mg
 |electroencephalography|seizure frequency;2;14;events per month|head injury;birth asphyxia|status epilepticus;aspiration|cortical
 hyperexcitability
ischaemic stroke|brain|neurology|facial droop;arm weakness;slurred speech;neglect|alteplase 50 mg;clopidogrel 75 mg;aspirin 300 mg |computed
 tomography|NIHSS score;4;22;points|carotid stenosis;atrial fibrillation|cerebral oedema;post-stroke depression|arterial occlusion
chronic kidney disease|kidneys|nephrology|itching;ankle swelling;poor appetite;nocturia|ramipril 5 mg;dapagliflozin 10 mg;sevelamer 800 mg
 |urine albumin measurement|creatinine;148;520;µmol/L|long-standing diabetes;hypertension|renal anaemia;hyperkalaemia|glomerular scarring
peptic ulcer|stomach|gastroenterology|epigastric pain;nausea;early satiety;black stools|omeprazole 20 mg;clarithromycin 500 mg;sucralfate 1
 g |upper endoscopy|haemoglobin;78;112;g/L|Helicobacter pylori infection;ibuprofen use|gastric perforation;gastrointestinal bleeding|mucosal
 acid injury
Crohn disease|bowel|gastroenterology|abdominal cramps;diarrhoea;weight loss;mouth ulcers|budesonide 9 mg;azathioprine 100 mg;infliximab 300
 mg |ileocolonoscopy|faecal calprotectin;260;1900;µg/g|smoking;family history|bowel stricture;perianal fistula|transmural inflammation
iron deficiency anaemia|blood|haematology|pallor;fatigue;brittle nails;breathlessness|ferrous sulphate 200 mg;ferric carboxymaltose 1
 g;vitamin C 250 mg |ferritin measurement|haemoglobin;71;108;g/L|heavy menstrual bleeding;coeliac disease|high-output heart failure;restless
 legs|impaired haem synthesis
deep vein thrombosis|leg veins|haematology|calf swelling;leg pain;warm skin;redness|rivaroxaban 15 mg;enoxaparin 80 mg;warfarin 5 mg
 |compression ultrasound|D-dimer;780;4200;µg/L|long immobility;recent surgery|pulmonary embolism;post-thrombotic syndrome|venous stasis
depression|brain|psychiatry|low mood;early waking;loss of interest;poor concentration|sertraline 50 mg;mirtazapine 15 mg;venlafaxine 75 mg
 |structured clinical interview|PHQ-9 score;11;26;points|social isolation;chronic pain|self-harm;substance misuse|altered serotonergic
 signalling
tuberculosis|lungs|infectious diseases|night sweats;weight loss;chronic cough;haemoptysis|isoniazid 300 mg;rifampicin 600 mg;ethambutol 800
 mg |sputum culture|time to culture positivity;8;27;days|crowded housing;HIV infection|miliary spread;bronchiectasis|granulomatous
 inflammation
malaria|blood|tropical medicine|spiking fever;rigors;headache;vomiting|artemether 80 mg;atovaquone 250 mg;primaquine 15 mg |thick blood
 film|parasite density;1200;88000;parasites/µL|travel without prophylaxis;pregnancy|cerebral malaria;severe anaemia|erythrocyte invasion
"""

# name | things | problems (clauses) | actions (infinitives) | tools | results (clauses)
TOPIC_TABLE = """
medicine|{disease};{symptom};{drug};the {test};my {organ}|the {symptom} came back;{drug} gave me an upset stomach;my {marker} was {value}
 |take {drug} with food;ask for {test};see someone in {field};keep an eye on the {symptom};stop {drug} only with your doctor |a pill box;a
 symptom diary;a second opinion|the {symptom} is almost gone;my {marker} went down;the doctor was happy with the {test}
cooking|sourdough;onion soup;the roast;pie crust;tomato sauce;risotto|the crust stays soft;the sauce splits;the bottom burns;it tastes flat
 |rest the dough overnight;brown the butter slowly;salt the water well;fold in the egg whites;let the stock simmer |a cast iron pan;a wooden
 spoon;a kitchen scale;a sharp knife|the crumb is open and light;the sauce is glossy;nobody leaves a bite
sport|the marathon;the back four;the home match;interval training;the relay team;the serve|we concede late goals;my pace drops;the keeper
 hesitates |press higher up the field;run hills on Tuesday;train the weaker foot;warm up longer;rest the striker |a stopwatch;a foam
 roller;a training plan;a new coach|we win the second half;the splits are even;the crowd sings until the whistle
cars|the gearbox;the clutch;my old hatchback;the diesel engine;the rear brakes;the alternator|it stalls at the lights;the clutch slips;the
 idle is rough |change the timing belt;bleed the brakes;clean the throttle body;check the fuses first;replace the wheel bearing |a torque
 wrench;a trolley jack;a fault code reader;a shop manual|the engine starts at the first turn;the steering is tight again;the rattle is gone
computing|the compiler;my laptop;the database;the router;the backup script;the graphics driver|the build hangs;memory fills up;the log is
 empty;packets get lost |update the firmware;write a failing test first;move the swap file;roll back the last commit;add an index |a spare
 disk;a debugger;a rescue stick;a packet sniffer|the query takes milliseconds;the tests are green;the fan is quiet
gardening|the tomato bed;my roses;the compost heap;the lawn;the pear tree;winter lettuce|slugs eat the seedlings;the leaves curl;frost
 blackens the buds |mulch the bed with straw;prune above an outward bud;water early in the morning;turn the compost;sow under glass |a sharp
 spade;a rain barrel;a cold frame;a pair of shears|the beans climb to the gutter;we pick basketfuls;the soil is dark and loose
music|the second movement;my twelve string guitar;the bass line;the choir;the drum kit;the cello part|the tempo drags;the strings buzz;the
 chorus sounds thin |practise with slow scales;tune down a half step;double the melody an octave higher;record it dry;count the rests aloud
 |a metronome;a condenser microphone;a new set of strings;a quiet room|the harmony rings;the groove sits;the last chord hangs in the hall
"""

# slot: option | option
GRAMMAR = """
sex: man | woman | farmer | teacher | nurse | retired driver | office worker
often: once daily | twice daily | every other day | in the evening | before breakfast | in two doses
treatment: {dose} {often} | {drug} | low-dose {drug} | {drug} followed by {drug}
design: randomised trial | cohort study | registry analysis | cross-over trial | case-control study | multicentre survey
site: a teaching hospital | {num:3:24} primary care centres | the {field} clinic of {name} | a rural district | {num:2:9} university
 hospitals
people: patients | adults | participants | older people | outpatients | women and men
clearly: significantly | modestly | markedly | slightly | consistently | substantially
fell: fell | declined | decreased | improved | dropped
span: {num:2:11} weeks | {num:3:36} months | {num:2:8} years | the first year | the whole follow-up
ci: (95 % CI {num:0.4:0.9} to {num:1.0:1.9}) | (p = 0.0{num:11:49}) | (p < 0.001) | (hazard ratio 0.{num:41:89}) | (n = {num:24:480})
link: in addition, | however, | by contrast, | of note, | overall, | moreover, | in practice, | as expected, | to that end, | at the same
 time,
title: {drug} and {complication} in {people} with {disease}: a {design} | {marker} as a marker of {complication} in {disease} | does {risk}
 change the course of {disease}? A {design} | {disease} with {symptom}: report of a case
background: {disease} is a common disorder of the {organ} that often begins with {symptom#0} and {symptom#1} | {risk} has long been linked
 to {disease}, but the size of the effect remains uncertain | the main mechanism is {mechanism}, which explains the {symptom} that brings
 {people} to a {field} clinic | guidelines recommend {drug1} as the first choice, yet up to {num:15:60} % of {people} stop it within {span}
 | little is known about {drug} in {people} who also have {risk}
methods: we enrolled {num:40:980} {people} with {disease} at {site} and followed them for {span} | {people} were assigned to {dose} {often}
 or to placebo | all of them had {test} at baseline and again after {span} | the primary outcome was the change in {marker}; secondary
 outcomes were {symptom#0}, {symptom#1} and {complication} | we excluded people with {complication}, pregnancy or earlier use of {drug} |
 {marker} was measured by staff who were blind to the treatment | the analysis was by intention to treat, with age, sex and {risk} as
 covariates | {symptom} was scored from 0 to {num:4:10} in a diary kept by the {people} | a {field} specialist confirmed every diagnosis
 with {test}
results: mean {marker} {fell} from {value} to a level close to normal in the {drug} group {ci} | {symptom} {fell} {clearly} with {drug#0}
 but not with {drug#1} {ci} | {complication} occurred in {num:2:19} of {num:90:400} {people} {ci} | at baseline the median {marker} was
 {value}, and {num:31:68} % of {people} reported {symptom} | {people} with {risk} had more {symptom#0} and less benefit from {drug} {ci} |
 the median age was {num:41:76} years, and {num:38:62} % were women | {test} showed improvement in {num:28:91} % of the treated {people} |
 the effect of {dose} was {clearly} larger in {people} under {num:45:70} years | after {span}, {symptom#1} had gone in {num:20:77} % of the
 {people} {ci}
effect: nausea | rash | dizziness | abnormal liver enzymes | diarrhoea | a dry mouth | low sodium | poor sleep | bruising
discussion: in this {design}, {drug} {clearly} reduced {symptom} and the rate of {complication} | the most likely explanation is that {drug}
 acts on {mechanism} | our findings agree with those from {site} | {people} with {risk} need closer follow-up, because {complication} was
 more frequent among them | clinicians should check {marker} before they start {drug} | whether {drug#0} can be combined with {drug#1}
 deserves another trial | {marker} of {value} or worse should prompt referral to {field}
presentation: a {num:19:88}-year-old {sex} came to {site} with {symptom#0} and {symptom#1} for {span} | the history included {risk} and
 treatment with {drug} | there was no {symptom#2} and no earlier disease of the {organ} | on admission the temperature was {num:36.2:39.4}
 °C and the pulse {num:58:122} beats per minute | the family doctor had given {dose} without success
investigation: the {marker} was {value}, which raised the suspicion of {disease} | {test} confirmed {disease} and excluded {complication} |
 sodium was {num:131:145} mmol/L, potassium {num:3.4:5.2} mmol/L and the platelet count {num:140:390} ·10⁹/L | the differential diagnosis
 included {disease2}, but the {symptom} made it unlikely
therapy: treatment was started with {dose} {often} | because of {effect}, {drug#0} was replaced by {drug#1} after {num:2:20} days | {drug1}
 remains the first choice for {disease}, and it was continued for {span} | we advised the patient to avoid {risk}
outcome: the {symptom#0} resolved within {num:2:20} days, and the {marker} returned to the normal range | at follow-up after {span} the
 patient had no {symptom} | {complication} did not develop | the patient was discharged on {dose} {often} | {num:2:11} months later a single
 episode of {symptom#1} was treated at home
definition: {disease} is defined by {mechanism} in the {organ}, with or without {symptom} | the diagnosis rests on the history and on {test}
 | typical features are {symptom#0}, {symptom#1} and {symptom#2} | it belongs to the field of {field} and must be distinguished from
 {disease2} | {risk} is the best known risk factor for {disease} | the {organ} is affected first, and {complication} may follow when
 {mechanism} goes on for {span}
guideline: offer {drug1} to all adults with {disease} unless there is a contraindication | repeat {test} every {num:2:12} months while the
 {symptom} lasts | do not use {drug#2} as the only treatment | refer to {field} without delay when {complication} is suspected | start
 {dose} {often} and review the {marker} after {num:2:12} weeks | tell people with {disease} that {risk} makes {symptom} more likely |
 explain that {symptom#0} may take {span} to improve
turn: what brings you in today? / I have had {symptom#0} for {span}, and it is getting worse. | do you also notice {symptom#1}? / yes,
 mostly in the morning. | are you taking any medicine? / only {dose} that another doctor gave me. | did it help? / a little, but I got
 {effect} from it. | is there {risk} in your history? / I am afraid so, for {num:3:20} years. | your {marker} is {value}. / is that bad? I
 do not know what that means. | I would like to do {test}. / will that hurt? I have never had one. | it looks like {disease}. / what should
 I do about the {symptom#2}? | please start {dose} {often}. / and if I forget to take it? | come back in {num:2:9} weeks, or earlier if you
 see signs of {complication}. / thank you, I will.
kin: mother | father | brother | sister | aunt | grandfather | neighbour | cousin | old friend
opening: has anyone here had trouble with {thing}? | I have been fighting with {thing} for {num:2:9} weeks and {problem} | quick question
 about {thing} from a beginner | reply to the post above: {thing} was my problem too | update on {thing}, because several of you asked | my
 {kin} told me to {action}, and I am not sure it is right
talk: every time I try to {action}, {problem} | with {tool} it is much easier to {action} | I bought {tool} last {day} and it changed
 everything | first {action#0}, then {action#1}, and only then worry about {thing} | my {kin} always says that you should {action} | if
 {problem}, you have to {action} | after {num:2:9} days {result}, so do not give up | the trick that worked for me was to {action} | last
 {season} {problem}, and this year {result} | I would not spend money on {tool} before you {action}
closing: thanks for reading, and have a good {day} | please tell me what you would do | hope that helps somebody with {thing} | any idea
 what to try next?
day: Monday | Tuesday | Thursday | Friday | weekend | Sunday
season: spring | summer | autumn | winter
opening_page: {thing} deserves more attention than it gets | most people who write to us about {thing} have the same complaint: {problem} |
 this page explains what to do when {problem} | there are {num:3:9} things to know about {thing}, and none of them is difficult
advice: begin with {tool} and a free {day} | {action#0} before you {action#1}, or the work is lost | when {problem}, the cause is rarely
 {thing} itself | it takes {num:2:9} days of patience until {result} | the common mistake is to {action} too late | in {season} it is better
 to {action} | {thing#0} and {thing#1} need different care | a good rule is to {action} and to write down what happened | we asked {name} of
 {name}, who has worked with {thing} for {num:11:38} years | do not be discouraged when {problem}
news: the council of {name} voted {num:9:21} to {num:3:8} to fund a new hall, the mayor said on {day} | a fair about {thing} will open in
 {name} next {season} | more than {num:120:4800} visitors came to {name} for the festival | "we want people to {action}," said {name}
 {name}, who runs the club | the bridge near {name} stays closed until {season}
name: {syl1}{syl2}{syl3} | {syl1}{syl3}
syl1: Bel | Tor | Mar | Kess | Lind | Oster | Vall | Hal | Bren | Cor | Dun | Fer | Gal | Har | Ilm | Jor | Nor | Pel | Quin | Ras | Sel |
 Tam | Wen | Yar
syl2: a | e | en | in | o | ar | el | il | un | am | is | or
syl3: berg | ton | wick | ford | dale | mere | stad | low | hurst | by | rano | ville | mont | sk | vik | mouth | croft | den
direction: north | south | east | west | north-east | south-west
landscape: plateau | valley | coast | delta | forest | moor | archipelago | basin
trade: salt | wool | timber | amber | tin | herring | paper | glass | silk | barley
town: {subject} is a town on the {landscape} of {name}, {num:4:90} kilometres {direction} of {name} | it had {num:1200:96000} inhabitants at
 the last census | the name first appears in a charter of {num:1011:1480} | {trade#0} and {trade#1} made the town rich | every {season} the
 town celebrates a fair of {trade} | a bridge with {num:3:17} arches leads to {name} | the climate is mild, with {num:480:1400} millimetres
 of rain in a year | the railway from {name} reached {subject} in {num:1844:1899} | the market square is framed by houses of the
 {num:14:18}th century
history: in {num:1210:1790} the {landscape} was divided between the dukes of {name} and the bishops of {name} | a fire destroyed the
 archives in {num:1510:1890} | the peace of {name} ended the war that began in {num:1410:1780} | trade in {trade} declined after the harbour
 of {name} silted up | much of what is known comes from the letters of {name} {name}, who was a merchant of {trade} | the parliament of
 {name} abolished the toll in {num:1801:1888} | travellers of that century describe {name} as a place of mills and gardens
river: the {subject} is a river that rises on the {landscape} of {name} at {num:340:2600} metres | it flows {direction} for {num:42:980}
 kilometres and ends in the lake of {name} | barges carried {trade} down the river until {num:1860:1960} | in {season} the meadows are
 flooded | a dam at {name} has produced electricity since {num:1921:1975} | its largest tributary, the {name}, joins it below {name} | the
 basin covers {num:800:64000} square kilometres of {landscape} and farm land
animal: the {subject} hare is a mammal of the {landscape} of {name} | it grows to {num:32:96} centimetres and weighs about {num:2:14}
 kilograms | it feeds on grasses, berries and the bark of young trees | the young are born in {season}, usually {num:2:7} at a time | its
 fur is brown in summer and nearly white in winter | the species was described in {num:1758:1890} by {name} {name} | foxes and eagles hunt
 it by day and by night | about {num:900:48000} animals live in the reserve of {name}
science: a survey in {num:1962:2019} mapped {num:14:220} sites, most of them {direction} of {name} | samples are kept in the museum of
 {name} | its relation to the forms of {name} is disputed | light, water and the chemistry of the soil decide where it is found | the oldest
 fossils of the group are {num:4:88} million years old | it was long confused with a relative from {name}
composer: {subject} was a composer and organist of {name}, born in {num:1651:1890} | the first of the {num:3:14} symphonies was performed in
 {name} | the operas mix dances of the {landscape} with strict counterpoint | the string quartets were printed in {num:1790:1910} and soon
 forgotten | {subject} married a singer from {name} and wrote {num:20:160} songs for her | a pupil of {name}, {subject} taught at the
 academy for {num:5:30} years | the manuscripts lie in the library of {name}
scene: {hero} {walked} {along} while {weather} | {friend} was waiting {along}, holding {object} | behind them lay {place}, and {weather} |
 {hero} put {object} on the table and sat down | nobody in {place} had spoken of {object} since the {season} of the great flood | {friend}
 {walked} ahead, {manner}, and did not look back | the door of {place} stood open, and on the step lay {object} | for {num:2:9} days {hero}
 stayed in {place} | the boat from {name} brought letters, salt and {object} | {friend} lit the lamp, {manner}, and closed the shutters of
 {place} | {weather}, and the road to {name} was empty
speech: "you should never have brought {object} here," said {friend}, {manner} | "I will go back to {place}," {hero} said | "do you remember
 {place}?" asked {friend} | "then tell me what you saw {along}," {hero} answered, {manner} | "not before {day}," said {friend}. "The bridge
 is down, and the ferryman is drunk" | "who else knows about {object}?" {friend} asked, {manner}
walked: walked | wandered | hurried | climbed | turned | went on | limped
along: along the harbour wall | under the lime trees | by the mill stream | on the stairs of the inn | between the stone walls | in the
 churchyard | at the edge of the wood
weather: the rain would not stop | a thin moon rose | the wind came in from the sea | fog lay over the fields | the snow began to fall | the
 swallows flew low
object: the silver watch | an old letter | a bundle of keys | the blue cup | a torn map | the violin case | a lantern | the captain's coat |
 a jar of honey
place: the house on the hill | the mill | the empty school | the lighthouse | {name} | the inn at {name} | the orchard | the schoolmaster's
 room
manner: without a word | with a short laugh | half asleep | as if nothing had happened | very slowly | with both hands | like a child | out
 of breath
first: Anna | Tobias | Miriam | Edgar | Clara | Jonas | Ruth | Walter | Helen | Silas | Martha | Oscar | Edith | Felix
de: der Patient klagt seit {num:2:14} Tagen über Fieber und {de_w} | die Ärztin empfiehlt viel Ruhe und weniger {de_w} | am {de_t} war der
 Markt in {name} gut besucht | wir haben lange über {de_w} gesprochen, aber nichts entschieden | nach {num:3:20} Jahren kehrte er in das
 Dorf zurück und kaufte {de_w} | die Kinder spielen hinter dem Haus, während die Großmutter {de_w} holt | das Gericht kostet {num:4:30} Euro
 und schmeckt nach {de_w} | es gibt keinen Grund, sich vor {de_w} zu fürchten
de_w: Husten | Kaffee | Brot und Käse | warmer Milch | Äpfeln | alten Büchern | Zwiebeln | Schmerzen im Rücken
de_t: Montag | Dienstag | Mittwoch | Freitag | Sonntag
fr: le malade se plaint de fièvre et de {fr_w} depuis {num:2:14} jours | la médecin conseille du repos et un peu de {fr_w} | nous avons
 parlé de {fr_w} sans rien décider | après {num:3:20} ans, il est revenu au village pour vendre {fr_o} | les enfants jouent derrière la
 maison pendant que la grand-mère cherche {fr_o} | le marché de {name} ouvre à {num:6:9} heures du matin | ce plat coûte {num:4:30} euros et
 il a le goût de {fr_w} | personne ne savait où était passé {fr_o}
fr_w: toux | café | pain et fromage | lait chaud | miel | douleurs au dos | vieux livres
fr_o: le panier | la clé | le vieux cheval | son manteau | la lettre | le vin de son père
es: el paciente tiene fiebre y {es_w} desde hace {num:2:14} días | la doctora recomienda descanso y un poco de {es_w} | hablamos mucho de
 {es_w} y no decidimos nada | después de {num:3:20} años volvió al pueblo para vender {es_o} | los niños juegan detrás de la casa mientras
 la abuela busca {es_o} | el mercado de {name} abre a las {num:6:9} de la mañana | este plato cuesta {num:4:30} euros y sabe a {es_w} |
 nadie sabía dónde estaba {es_o}
es_w: tos | café | pan con queso | leche caliente | miel | dolor de espalda | libros viejos
es_o: la cesta | la llave | el caballo viejo | su abrigo | la carta | el vino de su padre
question: a {num:21:84}-year-old {sex} reports {symptom#0}, {symptom#1} and {symptom#2} that started {num:2:40} days ago. Which drug is
 usually given first? | during a ward round the consultant points out {mechanism} in a patient who complains of {symptom#0}. Which of these
 diagnoses fits best? | a {sex} aged {num:21:84} with known {disease} asks which late complication should be feared most when {risk}
 persists. What is the best answer? | you suspect {disease} in a {num:21:84}-year-old {sex} whose only complaint is {symptom#0}. Which
 investigation should be arranged before any other?
plant: the {subject} bellflower is a herb of the {landscape} that reaches {num:20:180} centimetres | the leaves are narrow, toothed and
 arranged in pairs | it flowers from {season} on, with blue or white petals | bees and moths carry the pollen | the roots store starch and
 were once eaten in {name} | it grows up to {num:600:2900} metres above the sea | gardeners of {name} have raised {num:6:90} varieties | the
 seeds are spread by wind and by running water
mineral: {subject}ite is a mineral that forms in the cavities of old lava | it has a hardness of {num:2:9} and a density of {num:2.1:7.8}
 grams per cubic centimetre | the crystals are prisms with {num:4:8} faces, green to grey, with a glassy shine | it was first found near
 {name} in {num:1790:1930} | miners of the {landscape} took it for {trade} | heated to {num:320:1400} degrees, it loses its water and turns
 white | potters used it as a glaze
"""
