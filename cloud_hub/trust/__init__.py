"""Who is who: the authority and its certificates, enrolment, sign-in, and who may do what."""
